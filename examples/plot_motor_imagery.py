"""
Motor imagery: left or right fist
=================================

Decode which fist a person imagines closing, for people not seen before.

The recordings are those of the "EEG Motor Movement/Imagery Dataset" 1.0.0
(Schalk et al., 2004, https://doi.org/10.13026/C28G6P). MNE downloads them
from PhysioNet: 2.6 MB for each subject and run, 155 MB in total. They stay
in ``~/mne_data``, or in the folder that ``MNE_DATASETS_EEGBCI_PATH`` names.
"""

import sys
import textwrap

import matplotlib.pyplot as plt
import mne
import numpy as np
import requests
import torch
from braindecode.preprocessing import create_windows_from_events

from braindecode_sam import SAM, make_classifier
from braindecode_sam.comparison import compare
from braindecode_sam.datasets import (
    SubjectScaler,
    SubjectWindows,
    read_recordings,
    to_arrays,
)

N_SUBJECTS = 20  # of 106
RUNS = [4, 8, 12]  # imagery; 3, 7 and 11 are real movements
N_EPOCHS = 30
N_SEEDS = 1
N_JOBS = 2  # fits in parallel

# %%
# Recordings
# ----------
# Three of the 109 subjects were recorded with other settings.

mne.set_log_level("warning")
subjects = [s for s in range(1, 110) if s not in (88, 92, 100)]
try:
    files = mne.datasets.eegbci.load_data(
        subjects[:N_SUBJECTS], RUNS, update_path=False
    )
except requests.RequestException as error:
    sys.exit(
        "This example downloads recordings, and physionet.org cannot be"
        f" reached ({type(error).__name__})."
    )
recordings = read_recordings(
    files, subject_of=lambda path: path.parent.name, sfreq=80.0
)
for recording in recordings.datasets:
    recording.raw.filter(4, 38)

# %%
# Windows
# -------
# The annotations T1 and T2 are the cues for the left and for the right
# fist. They last a little more than four seconds. Windows last three
# seconds and begin half a second after the cue.

for recording in recordings.datasets:
    recording.raw.annotations.set_durations(4.0)
windows = create_windows_from_events(
    recordings,
    mapping={"T1": 0, "T2": 1},
    trial_start_offset_samples=40,
    trial_stop_offset_samples=-40,
    preload=True,
)
X, y, subjects = to_arrays(windows)
y = np.array(["left", "right"])[y.ravel().astype(int)]
n_subjects, n_chans, n_times = len(set(subjects)), *X.shape[1:]
print(f"{len(X)} windows of {n_subjects} subjects, {n_chans} x {n_times}")

# %%
# Each subject on their own scale
# -------------------------------
# The amplitude of the EEG differs between people and says nothing about the
# task. The scaler standardizes each channel over the subject's own windows.
# It needs no labels, so it works for new people.

X = SubjectScaler().fit_transform(SubjectWindows(X, subjects))

# %%
# AdamW and SAM
# -------------
# ``FastEEGNet`` is braindecode's EEGNet after
# :func:`~braindecode_sam.speed_up`.


def candidate(optimizer):
    """Build a net with an optimizer."""
    return make_classifier(
        module="FastEEGNet", optimizer=optimizer, max_epochs=N_EPOCHS,
        augmentation=None, device="cpu", verbose=0,
    )  # fmt: skip


models = {"AdamW": candidate(torch.optim.AdamW), "SAM": candidate(SAM)}
result = compare(
    models, X, y, subjects, n_seeds=N_SEEDS, n_jobs=N_JOBS, verbose=0
)
print(result.to_frame()[["balanced_accuracy", "roc_auc", "loss"]].round(3))
for sentence in result.sentences():
    print(textwrap.fill(sentence, 72))

# %%
# How well can each person be decoded?
# ------------------------------------
# People differ more than optimizers do. The dotted line is chance.

scores = result.scores("subject").pivot_table(
    index="subject", columns="estimator", values="balanced_accuracy"
)
scores = scores.sort_values("AdamW", ascending=False)
figure, ax = plt.subplots(figsize=(8, 3.6), layout="constrained")
for (name, marker), color in zip(
    {"AdamW": "o", "SAM": "D"}.items(), ("0.45", "C0"), strict=True
):
    ax.plot(scores[name], marker, color=color, label=name)
ax.axhline(0.5, color="0.4", ls=":")
ax.tick_params(axis="x", rotation=90)
ax.set(xlabel="Subject", ylabel="Balanced accuracy")
ax.legend(frameon=False)

# %%
# Does the optimizer matter?
# --------------------------
# A thin line is a subject. Below are the differences, with an interval.

result.plot()
plt.show()
