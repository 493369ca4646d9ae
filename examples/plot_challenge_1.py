"""
Challenge 1: SAM on simulated EEG, cross-validated by subject
=============================================================

Response times are predicted from windows of 72 channels and 500 samples, as in the
first challenge of the 2025 competition: EEGNeX, trained by SAM around AdamW, with
time shifts and Gaussian noise as augmentation, in five folds of subjects. The data
are simulated, and there are fewer subjects and epochs than in the competition, so
that this runs in under two minutes on two cores; ``--help`` tells how to ask for more.
"""

import argparse

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.compose import TransformedTargetRegressor
from sklearn.dummy import DummyRegressor
from sklearn.model_selection import GroupKFold, cross_validate
from sklearn.preprocessing import StandardScaler

from braindecode_sam import SCORING, load_config, make_regressor
from braindecode_sam.datasets import simulate_response_times, to_arrays
from braindecode_sam.model_selection import nrmse_table, out_of_fold_predictions
from braindecode_sam.visualization import plot_fold_scores, plot_history

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--subjects", type=int, default=20)
parser.add_argument("--trials", type=int, default=16, help="of each subject")
parser.add_argument("--epochs", type=int, default=10)
parser.add_argument("--device", default="auto")
args = parser.parse_args()

# %%
# The data
# --------
# ``simulate_response_times`` gives ``mne.Epochs`` with the subject and the response
# time of each trial in their metadata; ``to_arrays`` turns them into what
# scikit-learn splits.

config = load_config("challenge_1")
epochs = simulate_response_times(
    args.subjects,
    args.trials,
    n_chans=config.model.n_chans,
    n_times=config.model.n_times,
    random_state=0,
)
X, y, subjects = to_arrays(epochs, target="response_time")
print(f"{len(X)} trials of {args.subjects} subjects, {X.shape[1]} x {X.shape[2]} each")

# %%
# The net
# -------
# One line from the configuration; any parameter of an ``EEGRegressor`` can be given
# another value. Scikit-learn standardizes the targets by those of the training
# subjects, since so few epochs leave no time to learn their mean.

net = make_regressor(config, device=args.device, max_epochs=args.epochs)
model = TransformedTargetRegressor(net, transformer=StandardScaler())

# %%
# Five folds, no subject on both sides
# ------------------------------------

torch.manual_seed(0)
folds = {
    "groups": subjects,
    "cv": GroupKFold(config.n_splits),
    "scoring": SCORING,
    "return_estimator": True,
    "return_indices": True,
    "error_score": "raise",
}
results = cross_validate(model, X, y, **folds)
mean = cross_validate(DummyRegressor(), X, y, **folds)

# %%
# Scores
# ------
# Always predicting the training subjects' mean scores about 1 by the standard
# deviation, and much less by the range: the two must not be compared.

predictions = {
    "SAM": out_of_fold_predictions(results, X),
    "mean": out_of_fold_predictions(mean, X),
}
table = nrmse_table(y, predictions, results["indices"]["test"])
print("\nNRMSE, lower is better\n")
print(table.round(3).to_string())
print(f"\nSeconds a fold: {np.mean(results['fit_time']):.1f}")
better = table.loc["pooled", "SAM, std"] < table.loc["pooled", "mean, std"]
print(f"The net is {'better' if better else 'no better'} than the mean predictor.")

# %%
# Pictures
# --------

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
plot_history(results["estimator"][0].regressor_, ax=left)
left.set_title("Fold 1")
plot_fold_scores(-results["test_neg_nrmse"], -mean["test_neg_nrmse"], ax=right)
right.set_title("Five folds of subjects")
plt.show()
