"""
Real EEG: rest or arithmetic
============================

Does a subject rest or do mental arithmetic? This example decides it with
AdamW and with SAM, for windows and for whole recordings. The data set is
"EEG During Mental Arithmetic Tasks" 1.0.0 (Zyma et al., 2019,
https://doi.org/10.3390/data4010014). Download it from
https://physionet.org/content/eegmat/1.0.0/ and set the environment variable
``EEGMAT_PATH``, or the entry of that name in MNE's configuration, to its
folder.

One seed and a few epochs keep it short. For an answer, raise both.
"""

import textwrap
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import mne
import numpy as np
import torch

from braindecode_sam import SAM, make_classifier
from braindecode_sam.comparison import compare
from braindecode_sam.datasets import (
    SubjectScaler,
    SubjectWindows,
    read_recordings,
)

FOLDER = Path(mne.get_config("EEGMAT_PATH", "eegmat"))
N_SUBJECTS = 12  # the first of them
N_EPOCHS = 8
N_SEEDS = 1
N_JOBS = 2  # fits in parallel
REPORT = "report_real.html"

# %%
# Windows, labels and subjects
# ----------------------------
# The first minute of each recording, at 125 Hz, in 15 windows of four
# seconds. ``SubjectNN_1.edf`` is rest, ``SubjectNN_2.edf`` arithmetic.
# Labels may be text.

files = sorted(FOLDER.glob("Subject*_[12].edf"))[: 2 * N_SUBJECTS]
if not files:
    raise FileNotFoundError(
        f"{FOLDER} holds no file such as Subject00_1.edf. Download"
        " https://physionet.org/content/eegmat/1.0.0/ and set EEGMAT_PATH"
        " to its folder."
    )
recordings = read_recordings(files, sfreq=125.0, crop=(0, 60)).datasets
names = recordings[0].raw.ch_names
names = [name for name in names if name.startswith("EEG ")][:19]
X = np.concatenate(
    [
        np.split(recording.raw.get_data(names)[:, :7500], 15, axis=1)
        for recording in recordings
    ]
).astype(np.float32)
tasks = ["rest" if f.stem.endswith("_1") else "arithmetic" for f in files]
y = np.repeat(tasks, 15)
recording = np.repeat([f.stem for f in files], 15)
subjects = np.repeat([f.stem.split("_")[0] for f in files], 15)
n_subjects, n_chans, n_times = len(set(subjects)), *X.shape[1:]
print(f"{len(X)} windows of {n_subjects} subjects, {n_chans} x {n_times}")

# %%
# Each subject on their own scale
# -------------------------------
# The amplitude of the EEG differs between subjects and says nothing about
# the task. The scaler uses a subject's own windows and no labels, so it
# does not leak.

X = SubjectScaler().fit_transform(SubjectWindows(X, subjects))


def candidate(optimizer, **options):
    """Build a net with an optimizer."""
    return make_classifier(
        device="cpu", max_epochs=N_EPOCHS, verbose=0, augmentation=None,
        optimizer=optimizer, **options,
    )  # fmt: skip


models = {
    "AdamW": candidate(torch.optim.AdamW),
    "SAM": candidate(SAM, optimizer__rho=0.1),
}
with warnings.catch_warnings():
    # It warns of a model that is no better; the tables below say so.
    warnings.filterwarnings("ignore", "no better than the dummy")
    result = compare(
        models, X, y, subjects, n_seeds=N_SEEDS, by_epoch=True,
        n_jobs=N_JOBS, verbose=0,
    )  # fmt: skip

# %%
# Windows, and whole recordings
# -----------------------------
# The probabilities of a recording's windows are averaged to classify the
# recording. A log loss above that of the dummy predictor, at a balanced
# accuracy above 0.5, is a sign of probabilities that are too extreme.

columns = ["balanced_accuracy", "roc_auc", "loss"]
per_unit = {
    "windows": result,
    "recordings": result.by_recording(recording),
}
for unit, found in per_unit.items():
    print(f"\n{unit}")
    print(found.to_frame()[columns].round(3))

# %%
# What it shows
# -------------

for sentence in result.sentences():
    print(textwrap.fill(sentence, 72))
result.plot()
result.plot_by_epoch()
plt.show()

# %%
# A page to keep
# --------------

result.report(REPORT, title="Rest or arithmetic: AdamW or SAM?")
