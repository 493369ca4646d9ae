"""
Real EEG: response times of one subject
=======================================

How long does a subject take to press a button? This example predicts it
from one second of EEG after the stimulus. The recording is the sample
``eeglab_data.set`` of EEGLAB's tutorial, in ``sample_data`` of
https://github.com/sccn/eeglab: a visual attention task, 30 EEG channels,
128 Hz, with the events ``square`` and ``rt``. Set the environment variable
``EEGLAB_SAMPLE``, or the entry of that name in MNE's configuration, to the
file. Any recording that MNE reads works with the names of its events.

With a single subject, folds are contiguous blocks of trials, and the scores
say nothing about other subjects. Expect noisy scores of 74 trials.
"""

import logging
import sys
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import mne
import numpy as np
import torch
from sklearn.compose import TransformedTargetRegressor
from sklearn.model_selection import PredefinedSplit
from sklearn.preprocessing import StandardScaler

from braindecode_sam import SAM, make_regressor
from braindecode_sam.comparison import compare, paired_comparison
from braindecode_sam.datasets import (
    read_recordings,
    response_time_windows,
    to_arrays,
)

FILE = Path(mne.get_config("EEGLAB_SAMPLE", "eeglab_data.set"))
STIMULUS = ["square"]
RESPONSE = ["rt"]
N_EPOCHS = 20
N_SEEDS = 2
N_JOBS = 2  # fits in parallel

# %%
# From events to windows
# ----------------------
# A response belongs to the last stimulus before it. The log says how many
# trials were left out, and why.

if not FILE.exists():
    raise FileNotFoundError(
        f"there is no {FILE}. Download eeglab_data.set and eeglab_data.fdt"
        " from sample_data of https://github.com/sccn/eeglab and set"
        " EEGLAB_SAMPLE to the first."
    )
logging.basicConfig(format="%(message)s", stream=sys.stdout)
channels = mne.io.read_raw(FILE, verbose="error").ch_names
eeg = [name for name in channels if not name.startswith("EOG")]
recordings = read_recordings([FILE], picks=eeg)
recordings.set_description({"path": [FILE.name]}, overwrite=True)
logging.getLogger("braindecode_sam").setLevel(logging.INFO)
windows = response_time_windows(
    recordings, stimulus=STIMULUS, response=RESPONSE, window_seconds=1.0
)
X, y, _ = to_arrays(windows)
y = y.ravel()
print(
    f"{len(X)} trials, {X.shape[1]} x {X.shape[2]}, median response time"
    f" {np.median(y):.3f} s"
)

# %%
# Blocks of trials
# ----------------
# Neighboring trials resemble each other, so folds are not shuffled. Ten
# blocks, two in each of five folds, are the units of the comparison. Small
# batches suit few trials.


def candidate(optimizer, **options):
    """Build a net with an optimizer."""
    net = make_regressor(
        "challenge_1", module__n_chans=X.shape[1],
        module__n_times=X.shape[2], batch_size=8, max_epochs=N_EPOCHS,
        verbose=0, optimizer=optimizer, **options,
    )  # fmt: skip
    return TransformedTargetRegressor(net, transformer=StandardScaler())


blocks = 10 * np.arange(len(X)) // len(X)
folds = list(PredefinedSplit(blocks // 2).split())
models = {
    "AdamW": candidate(torch.optim.AdamW),
    "SAM": candidate(SAM, optimizer__rho=0.1),
}
with warnings.catch_warnings():
    # It warns of a model that is no better; the intervals below say so.
    warnings.filterwarnings("ignore", "no better than the dummy")
    result = compare(
        models, X, y, blocks, cv=folds,
        n_seeds=N_SEEDS, n_jobs=N_JOBS, verbose=0,
    )  # fmt: skip

# %%
# Scores
# ------
# NRMSE of all trials pooled, and averaged over the folds. They can disagree
# about the mean predictor: each fold has its own spread. The intervals of
# the squared error over blocks say what can be concluded. A model is better
# only if its whole interval is below zero.

columns = ["neg_nrmse", "neg_nrmse_folds"]
table = -result.to_frame()[columns].set_axis(["pooled", "folds"], axis=1)
print("NRMSE\n")
print(table.rename({"dummy": "mean predictor"}).round(3))
for name, other in (("AdamW", "dummy"), ("SAM", "dummy"), ("SAM", "AdamW")):
    found = paired_comparison(
        list(result.y_pred[name]), list(result.y_pred[other]), y, blocks
    )
    low, high = found.ci_low, found.ci_high
    verdict = "better" if high < 0 else "worse" if low > 0 else "undecided"
    print(
        f"{name} against {other.replace('dummy', 'the mean')}:"
        f" {found.difference:+.2f} ({low:+.2f} to {high:+.2f}): {verdict}"
    )

# %%
# Every trial
# -----------
# Predictions, averaged over the seeds. On the dashed line the prediction is
# right. A few slow trials can make up most of a correlation.

figure, axes = plt.subplots(
    1, 2, figsize=(8, 4.6), layout="constrained", sharey=True
)
y_pred = {name: result.y_pred[name].mean(axis=0).ravel() for name in models}
every = np.concatenate([y, *y_pred.values()])
limits = every.min() - 0.02, every.max() + 0.02
for ax, name in zip(axes, models, strict=True):
    r = np.corrcoef(y, y_pred[name])[0, 1]
    ax.scatter(y, y_pred[name], s=12)
    ax.axline((0.4, 0.4), slope=1, color="0.4", ls="--")
    ax.set(
        title=f"{name}, r = {r:.2f}",
        xlabel="Response time (s)",
        xlim=limits,
        ylim=limits,
        aspect="equal",
    )
axes[0].set_ylabel("Predicted (s)")
plt.show()
