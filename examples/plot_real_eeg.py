"""
Real EEG: a subject's trait from a folder of recordings
=======================================================

Predicts how many subtractions a minute a person makes from the EEG recorded
meanwhile, on the data set "EEG During Mental Arithmetic Tasks" (Zyma et al. 2019,
https://doi.org/10.3390/data4010014, on PhysioNet as ``eegmat``)::

    python examples/plot_real_eeg.py FOLDER

FOLDER holds ``SubjectNN_2.edf`` and ``subject-info.csv``. With one value for each of a
few dozen people nobody should expect much: the script says plainly whether the net
was any better than always predicting the mean. It takes less than two minutes on two
cores.
"""

import argparse
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import mne
import numpy as np
import torch
from sklearn.compose import TransformedTargetRegressor
from sklearn.dummy import DummyRegressor
from sklearn.model_selection import GroupKFold, cross_validate
from sklearn.preprocessing import StandardScaler

from braindecode_sam import SCORING, load_config, make_regressor
from braindecode_sam.datasets import (
    read_recordings,
    subject_target_windows,
    to_arrays,
)
from braindecode_sam.model_selection import nrmse_table, out_of_fold_predictions
from braindecode_sam.visualization import plot_fold_scores, plot_history

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("folder", type=Path, help="with SubjectNN_2.edf, subject-info.csv")
parser.add_argument("--subjects", type=int, help="use only the first of them")
parser.add_argument("--epochs", type=int, default=8)
parser.add_argument("--device", default="auto")
if len(sys.argv) == 1:
    print(__doc__, parser.format_usage(), sep="\n")
    sys.exit()
args = parser.parse_args()

# %%
# From recordings to windows
# --------------------------
# Nineteen EEG channels, at 125 Hz, cut into windows of four seconds: 500 samples, as
# in the first challenge.

files = sorted(args.folder.glob("Subject*_2.edf"))[: args.subjects]
if not files:
    sys.exit(f"{args.folder} holds no file named like Subject00_2.edf")
first = mne.io.read_raw(files[0], verbose="error")
channels = [name for name in first.ch_names if name.startswith("EEG ")]
channels.remove("EEG A2-A1")  # the difference of the two references
print(f"Reading {len(files)} recordings ...")
recordings = read_recordings(
    files,
    participants=args.folder / "subject-info.csv",
    picks=channels,
    sfreq=125,
    on_bad="warn",
)
windows = subject_target_windows(recordings, "Number of subtractions")
X, y, subjects = to_arrays(windows)
print(f"{len(X)} windows of {len(set(subjects))} people, {X.shape[1]} x {X.shape[2]}")

# %%
# Five folds of people
# --------------------
# The first challenge's configuration, for as many channels as there are.

config = load_config("challenge_1")
if len(set(subjects)) < 2 * config.n_splits:
    sys.exit("A fold needs at least two people, or its target would be constant.")
net = make_regressor(
    config,
    device=args.device,
    module__n_chans=X.shape[1],
    max_epochs=args.epochs,
)
model = TransformedTargetRegressor(net, transformer=StandardScaler())
folds = {
    "groups": subjects,
    "cv": GroupKFold(config.n_splits),
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
# By the standard deviation the mean predictor scores about 1. By the range the same
# prediction looks like a success.

predictions = {
    "SAM": out_of_fold_predictions(results, X),
    "mean": out_of_fold_predictions(mean, X),
}
table = nrmse_table(y, predictions, results["indices"]["test"])
print("\nNRMSE, lower is better\n")
print(table.round(3).to_string())
print(f"\nSeconds a fold: {np.mean(results['fit_time']):.1f}")
for row in ("mean", "pooled"):
    net_score, mean_score = table.loc[row, "SAM, std"], table.loc[row, "mean, std"]
    verdict = "better" if net_score < mean_score else "no better"
    print(f"By NRMSE (std), {row}: the net is {verdict} than the mean predictor.")

# %%
# Pictures
# --------

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
plot_history(results["estimator"][0].regressor_, ax=left)
left.set_title("Fold 1")
plot_fold_scores(-results["test_neg_nrmse"], -mean["test_neg_nrmse"], ax=right)
right.set_title("Five folds of people")
plt.show()
