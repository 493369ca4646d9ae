"""
Challenge 2: eight outputs at once, on whatever device there is
===============================================================

One net predicts eight numbers from windows of 104 channels and 1000 samples, as in the
second challenge of the 2025 competition: EEGNeX, trained by SAM around Adamax. It runs
on ``resolve_device("auto")``, a GPU if PyTorch can use one. The data are simulated: the
first target is the response time, the others are copies of it with more and more
noise, so that the lowest error that any predictor could reach is known for each.
"""

import argparse

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.compose import TransformedTargetRegressor
from sklearn.dummy import DummyRegressor
from sklearn.model_selection import GroupKFold, cross_validate
from sklearn.preprocessing import StandardScaler

from braindecode_sam import (
    SCORING,
    load_config,
    make_regressor,
    normalized_root_mean_squared_error,
    resolve_device,
)
from braindecode_sam.datasets import simulate_response_times, to_arrays
from braindecode_sam.model_selection import nrmse_table, out_of_fold_predictions

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--subjects", type=int, default=20)
parser.add_argument("--trials", type=int, default=8, help="of each subject")
parser.add_argument("--epochs", type=int, default=10)
parser.add_argument("--device", default="auto")
args = parser.parse_args()

# %%
# Eight targets
# -------------
# ``noise[k]`` is the share of target k's standard deviation that nothing in the EEG
# tells, and so the lowest NRMSE that can be reached.

config = load_config("challenge_2")
epochs = simulate_response_times(
    args.subjects,
    args.trials,
    n_chans=config.model.n_chans,
    n_times=config.model.n_times,
    sfreq=250,
    random_state=0,
)
noise = np.linspace(0, 0.7, config.model.n_outputs)
rng = np.random.RandomState(0)
known = StandardScaler().fit_transform(epochs.metadata[["response_time"]])
unknown = rng.standard_normal((len(known), len(noise)))
names = [f"target {k + 1}" for k in range(len(noise))]
epochs.metadata[names] = np.sqrt(1 - noise**2) * known + noise * unknown
X, y, subjects = to_arrays(epochs, target=names)
print(f"X {X.shape}, y {y.shape}")

# %%
# The device
# ----------
# ``"cuda:1"``, ``"rocm"`` and ``"mps"`` are accepted too, and refused with advice where
# PyTorch cannot use them. On a GPU with little memory pass a smaller ``batch_size``.

device = resolve_device(args.device)
print(f"Training on {device}")
net = make_regressor(config, device=device, max_epochs=args.epochs)
model = TransformedTargetRegressor(net, transformer=StandardScaler())

# %%
# Five folds of subjects
# ----------------------

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
# The competition averages the NRMSE over the outputs. ``multioutput="raw_values"``
# gives each.

predictions = {
    "SAM": out_of_fold_predictions(results, X),
    "mean": out_of_fold_predictions(mean, X),
}
table = nrmse_table(y, predictions, results["indices"]["test"])
print("\nNRMSE, lower is better, averaged over the outputs\n")
print(table.round(3).to_string())
each = {
    name: normalized_root_mean_squared_error(y, y_pred, multioutput="raw_values")
    for name, y_pred in predictions.items()
}
print(f"\nSAM, each output, pooled: {each['SAM'].round(3)}")
print(f"Seconds a fold: {np.mean(results['fit_time']):.1f}")
better = table.loc["pooled", "SAM, std"] < table.loc["pooled", "mean, std"]
print(f"The net is {'better' if better else 'no better'} than the mean predictor.")

# %%
# Each output beside what could be reached
# ----------------------------------------

figure, ax = plt.subplots(layout="constrained")
ax.plot(names, each["mean"], "k-", label="mean predictor")
ax.plot(names, each["SAM"], "o-", label="EEGNeX, SAM")
ax.plot(names, noise, "C7--", label="lowest possible")
ax.set(ylabel="NRMSE (standard deviation), pooled", ylim=(0, None))
ax.tick_params(axis="x", rotation=45)
ax.legend(loc="lower right")
plt.show()
