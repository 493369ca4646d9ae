"""
Real EEG: a trait of subjects
=============================

How many subtractions a minute does a subject make? This example predicts it
from the EEG recorded meanwhile, with AdamW and with SAM. The data set is
"EEG During Mental Arithmetic Tasks" 1.0.0 (Zyma et al., 2019,
https://doi.org/10.3390/data4010014). Download it from
https://physionet.org/content/eegmat/1.0.0/ and set the environment variable
``EEGMAT_PATH``, or the entry of that name in MNE's configuration, to its
folder.

A trait has one value per subject, so a few dozen subjects are a few dozen
examples. Do not expect much: the point is how to find out.
"""

import textwrap
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import mne
import numpy as np
import pandas as pd
import torch
from sklearn.compose import TransformedTargetRegressor
from sklearn.preprocessing import StandardScaler

from braindecode_sam import SAM, make_regressor
from braindecode_sam import normalized_root_mean_squared_error as nrmse
from braindecode_sam.comparison import compare, paired_comparison
from braindecode_sam.datasets import (
    read_recordings,
    subject_target_windows,
    to_arrays,
)

FOLDER = Path(mne.get_config("EEGMAT_PATH", "eegmat"))
N_SUBJECTS = 36  # at most
N_EPOCHS = 8
N_JOBS = 2  # fits in parallel

# %%
# From recordings to windows
# --------------------------
# Nineteen EEG channels at 125 Hz in windows of four seconds: 500 samples,
# as in the first challenge.

files = sorted(FOLDER.glob("Subject*_2.edf"))[:N_SUBJECTS]
if not files:
    raise FileNotFoundError(
        f"{FOLDER} holds no file such as Subject00_2.edf. Download"
        " https://physionet.org/content/eegmat/1.0.0/ and set EEGMAT_PATH"
        " to its folder."
    )
first = mne.io.read_raw(files[0], verbose="error")
channels = [name for name in first.ch_names if name.startswith("EEG ")]
channels.remove("EEG A2-A1")  # the difference of the two references
recordings = read_recordings(
    files,
    participants=FOLDER / "subject-info.csv",
    picks=channels,
    sfreq=125,
)
windows = subject_target_windows(recordings, "Number of subtractions")
X, y, subjects = to_arrays(windows)
y = y.ravel()
n_subjects, n_chans, n_times = len(set(subjects)), *X.shape[1:]
print(f"{len(X)} windows of {n_subjects} subjects, {n_chans} x {n_times}")

# %%
# Five folds of subjects
# ----------------------
# The configuration of the first challenge, for as many channels as there
# are. ``compare`` adds a predictor of the mean. It warns where a model is
# no better; here the scores below say so.


def candidate(optimizer, **options):
    """Build a net with an optimizer."""
    net = make_regressor(
        "challenge_1", module__n_chans=n_chans, max_epochs=N_EPOCHS,
        verbose=0, optimizer=optimizer, **options,
    )  # fmt: skip
    return TransformedTargetRegressor(net, transformer=StandardScaler())


models = {
    "AdamW": candidate(torch.optim.AdamW),
    "SAM": candidate(SAM, optimizer__rho=0.1),
}
with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "no better than the dummy")
    result = compare(
        models, X, y, subjects, n_seeds=1, n_jobs=N_JOBS, verbose=0
    )

# %%
# Scores of all folds together
# ----------------------------
# The out-of-fold predictions are pooled before they are scored. A fold by
# itself holds about five subjects, hence five different targets. Where
# these happen to be close, their standard deviation is small, and the NRMSE
# of that fold is arbitrarily large. By the range, every NRMSE is
# smaller, which says nothing about the models.

scores = pd.DataFrame(
    {
        kind: {
            name: nrmse(y, y_pred[0], normalization=kind)
            for name, y_pred in result.y_pred.items()
        }
        for kind in ("std", "range")
    }
)
print("pooled NRMSE by standard deviation and by range\n")
print(scores.rename({"dummy": "mean predictor"}).round(3))

# %%
# Better than the mean?
# ---------------------
# Normalized squared errors, compared subject by subject. A model is better
# than the mean predictor only if the whole interval is below zero. Where
# none is, a difference between two models says how far each strays from the
# mean, and not that one of them has learned more.

for name in models:
    found = paired_comparison(
        list(result.y_pred[name]), list(result.y_pred["dummy"]), y, subjects
    )
    low, high = found.ci_low, found.ci_high
    verdict = "better" if high < 0 else "worse" if low > 0 else "undecided"
    print(
        f"{name} against the mean: {found.difference:+.2f}"
        f" ({low:+.2f} to {high:+.2f}): {verdict}"
    )
for sentence in result.sentences():
    print(textwrap.fill(sentence, 72))

# %%
# Each subject's windows, averaged
# --------------------------------
# A point is a subject. On the dashed line the prediction is right, on the
# dotted line it is the mean.

by_subject = result.by_recording(subjects)
targets = by_subject.y
limits = 0, 1.05 * max(targets.max(), *(
    by_subject.y_pred[name].max() for name in models
))  # fmt: skip
figure, axes = plt.subplots(
    1, 2, figsize=(8, 4.6), layout="constrained", sharey=True
)
for ax, name in zip(axes, models, strict=True):
    y_pred = by_subject.y_pred[name][0].ravel()
    r = np.corrcoef(targets, y_pred)[0, 1]
    ax.scatter(targets, y_pred, s=20)
    ax.axline((0, 0), slope=1, color="0.4", ls="--")
    ax.axhline(targets.mean(), color="0.4", ls=":")
    ax.set(
        title=f"{name}, r = {r:.2f}",
        xlabel="Subtractions per minute",
        xlim=limits,
        ylim=limits,
        aspect="equal",
    )
axes[0].set_ylabel("Predicted")
plt.show()
