"""
From a BIDS folder to scores
============================

The Healthy Brain Network's EEG, on which the 2025 challenge was held, comes as BIDS
folders: 129 channels at 100 Hz, a participants' table, and for each recording an
events' file. This script writes such a folder from simulated EEG with MNE-BIDS, then
reads it as anybody's and goes on to cross-validated scores. One line swaps in the
public data. Needs ``pip install "braindecode_sam[bids]"``.
"""

import argparse
import tempfile
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import mne
import mne_bids
import numpy as np
import pandas as pd
import torch
from braindecode.datasets import BIDSDataset
from braindecode.preprocessing import Preprocessor, preprocess
from sklearn.compose import TransformedTargetRegressor
from sklearn.dummy import DummyRegressor
from sklearn.model_selection import GroupKFold, cross_validate
from sklearn.preprocessing import StandardScaler

from braindecode_sam import SCORING, make_regressor
from braindecode_sam.datasets import (
    response_time_windows,
    simulate_response_times,
    subject_target_windows,
    to_arrays,
)
from braindecode_sam.model_selection import nrmse_table, out_of_fold_predictions
from braindecode_sam.visualization import plot_fold_scores

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--subjects", type=int, default=12)
parser.add_argument("--trials", type=int, default=16, help="of each subject")
parser.add_argument("--epochs", type=int, default=15)
parser.add_argument("--folder", type=Path, help="where to write; default temporary")
args = parser.parse_args()
mne.set_log_level("error")
# MNE has no place for columns such as "attention"; they are read from the table below.
warnings.filterwarnings("ignore", "Unable to map the following column", RuntimeWarning)

# %%
# A folder like the challenge's
# -----------------------------
# Each simulated trial of four seconds begins with a target on the left or on the right,
# and the button is pressed after the response time.

SFREQ, TRIAL_SECONDS = 100, 4


def make_raw(trials, times):
    """Put a person's trials end to end, with their events."""
    data = np.concatenate(trials.get_data(copy=False), axis=-1)
    raw = mne.io.RawArray(data, trials.info)
    sides = np.resize(["left", "right"], len(times))
    onsets = TRIAL_SECONDS * np.arange(len(times))
    return raw.set_annotations(
        mne.Annotations(
            np.concatenate([onsets, onsets + times]),
            0.1,
            [*(f"{side}_target" for side in sides)]
            + [f"{side}_buttonPress" for side in sides],
        )
    )


def write_folder(root):
    """Write a recording for each person, and the participants' table."""
    epochs = simulate_response_times(
        args.subjects, args.trials, n_chans=129, n_times=TRIAL_SECONDS * SFREQ,
        sfreq=SFREQ, random_state=0,
    )  # fmt: skip
    attention = np.random.RandomState(0).standard_normal(args.subjects)
    for i, (subject, table) in enumerate(epochs.metadata.groupby("subject")):
        raw = make_raw(
            epochs[f"subject == '{subject}'"], table["response_time"].to_numpy()
        )
        mne_bids.write_raw_bids(
            raw,
            mne_bids.BIDSPath(
                subject=subject.removeprefix("sub-"),
                task="contrastChangeDetection",
                datatype="eeg",
                root=root,
            ),
            format="BrainVision",
            allow_preload=True,
        )
        print(f"wrote {subject}, {i + 1} of {args.subjects}", flush=True)
    participants = pd.read_csv(root / "participants.tsv", sep="\t")
    participants["attention"] = attention.round(3)
    participants.to_csv(root / "participants.tsv", sep="\t", index=False)


temporary = tempfile.TemporaryDirectory()
root = args.folder or Path(temporary.name)
if not (root / "participants.tsv").exists():  # written by a run before
    write_folder(root)
print(*sorted(p.relative_to(root).as_posix() for p in root.glob("*")), sep="\n")
print((root / "participants.tsv").read_text()[:200])

# %%
# Reading it
# ----------
# From here on nothing knows where the folder came from.

recordings = BIDSDataset(root=root, tasks="contrastChangeDetection")

# %%
# The public data need another line instead, which downloads twenty people of one
# release (``pip install eegdash``)::
#
#     from eegdash.dataset import EEGChallengeDataset
#
#     recordings = EEGChallengeDataset(
#         release="R5", cache_dir="hbn", mini=True, task="contrastChangeDetection"
#     )
#
# MNE gives volts; nets want microvolts, as BatchNorm takes a variance far below its
# ``eps`` for none.


def to_microvolts(volts):
    """Change the unit."""
    return volts * 1e6


preprocess(recordings, [Preprocessor(to_microvolts, picks="eeg")])

# %%
# Two seconds from the target on, with the response time
# ------------------------------------------------------
# The challenge begins half a second after the target: ``offset_seconds=0.5``. Its
# response times are longer than the simulated ones, which would then be over.

windows = response_time_windows(
    recordings,
    stimulus=["left_target", "right_target"],
    response=["left_buttonPress", "right_buttonPress"],
    window_seconds=2.0,
)
X, y, subjects = to_arrays(windows)
print(f"{len(X)} windows of {len(set(subjects))} people, {X.shape[1]} x {X.shape[2]}")

# %%
# Five folds of people
# --------------------

net = make_regressor(
    "challenge_1", module__n_chans=X.shape[1], module__n_times=X.shape[2],
    max_epochs=args.epochs, verbose=0,
)  # fmt: skip
model = TransformedTargetRegressor(net, transformer=StandardScaler())
folds = {
    "groups": subjects, "cv": GroupKFold(5), "scoring": SCORING,
    "return_estimator": True, "return_indices": True, "error_score": "raise",
}  # fmt: skip
torch.manual_seed(0)
results = cross_validate(model, X, y, **folds)
mean = cross_validate(DummyRegressor(), X, y, **folds)
predictions = {
    "SAM": out_of_fold_predictions(results, X),
    "mean": out_of_fold_predictions(mean, X),
}
print("\nNRMSE, lower is better\n")
print(nrmse_table(y, predictions, results["indices"]["test"]).round(3).to_string())

# %%
# A trait instead, out of the participants' table
# -----------------------------------------------
# Its columns become the recordings' descriptions, and one of them the target of every
# window, as in the second challenge.

table = pd.read_csv(root / "participants.tsv", sep="\t").set_index("participant_id")
of = ["sub-" + subject for subject in recordings.description["subject"]]
recordings.set_description(table.loc[of, ["attention"]].reset_index(drop=True))
traits = subject_target_windows(recordings, "attention", window_seconds=2.0)
print(f"{len(traits)} windows with the trait; the first: {traits[0][1]}")

plot_fold_scores(-results["test_neg_nrmse"], -mean["test_neg_nrmse"])
plt.show()
temporary.cleanup()
