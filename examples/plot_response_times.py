"""
Real EEG: response times of one person
======================================

Predicts how long a person takes to press a button from one second of EEG after the
stimulus, on the sample recording of EEGLAB's tutorial (a visual attention task, 32
channels, 128 Hz, events ``square`` and ``rt``)::

    python examples/plot_response_times.py FILE

FILE is ``eeglab_data.set``; any recording that MNE reads will do, with
``--stimulus`` and ``--response`` naming its events. With one person there is nobody new
to predict: the folds are stretches of time. Do not expect much of some seventy trials.
"""

import argparse
import logging
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import mne
import numpy as np
import torch
from sklearn.compose import TransformedTargetRegressor
from sklearn.dummy import DummyRegressor
from sklearn.model_selection import KFold, cross_validate
from sklearn.preprocessing import StandardScaler

from braindecode_sam import SCORING, make_regressor
from braindecode_sam.datasets import (
    read_recordings,
    response_time_windows,
    to_arrays,
)
from braindecode_sam.model_selection import nrmse_table, out_of_fold_predictions
from braindecode_sam.visualization import plot_fold_scores

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("file", type=Path, help="recording with stimuli and responses")
parser.add_argument("--stimulus", nargs="+", default=["square"])
parser.add_argument("--response", nargs="+", default=["rt"])
parser.add_argument("--epochs", type=int, default=20)
parser.add_argument("--device", default="auto")
if len(sys.argv) == 1:
    print(__doc__, parser.format_usage(), sep="\n")
    sys.exit()
args = parser.parse_args()

# %%
# From events to windows
# ----------------------
# A response belongs to the last stimulus before it. The log says how many trials were
# left out, and why.

logging.basicConfig(format="%(message)s", stream=sys.stdout)
logging.getLogger("braindecode_sam").setLevel(logging.INFO)
channels = mne.io.read_raw(args.file, verbose="error").ch_names
eeg = [name for name in channels if not name.startswith("EOG")]
recordings = read_recordings([args.file], picks=eeg)
windows = response_time_windows(
    recordings, stimulus=args.stimulus, response=args.response, window_seconds=1.0
)
X, y, _ = to_arrays(windows)
print(f"{len(X)} trials, {X.shape[1]} x {X.shape[2]}, median {np.median(y):.3f} s")

# %%
# Folds of time
# -------------
# Neighbouring trials resemble each other, so the folds are not shuffled. Few trials
# ask for small batches.

net = make_regressor(
    "challenge_1", device=args.device, max_epochs=args.epochs, batch_size=8,
    module__n_chans=X.shape[1], module__n_times=X.shape[2], verbose=0,
)  # fmt: skip
model = TransformedTargetRegressor(net, transformer=StandardScaler())
folds = {
    "cv": KFold(5),
    "scoring": SCORING,
    "return_estimator": True,
    "return_indices": True,
    "error_score": "raise",
}
torch.manual_seed(0)
results = cross_validate(model, X, y, **folds)
mean = cross_validate(DummyRegressor(), X, y, **folds)

# %%
# Scores
# ------

predictions = {
    "SAM": out_of_fold_predictions(results, X).ravel(),
    "mean": out_of_fold_predictions(mean, X).ravel(),
}
table = nrmse_table(y, predictions, results["indices"]["test"])
print("\nNRMSE, lower is better\n")
print(table.round(3).to_string())
better = table.loc["pooled", "SAM, std"] < table.loc["pooled", "mean, std"]
print(f"\nThe net is {'better' if better else 'no better'} than the mean predictor.")

# %%
# Pictures
# --------

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
left.scatter(y, predictions["SAM"], s=12)
left.axline((np.median(y),) * 2, slope=1, color="C7", ls="--")
left.set(xlabel="Response time (s)", ylabel="Predicted (s)", title="Every trial")
plot_fold_scores(-results["test_neg_nrmse"], -mean["test_neg_nrmse"], ax=right)
right.set_title("Five stretches of time")
plt.show()
