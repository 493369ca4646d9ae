"""
Real EEG: rest or arithmetic
============================

Is a person resting or calculating? Windows and whole recordings decide it.

The data set is "EEG During Mental Arithmetic Tasks" 1.0.0 (Zyma et al.,
2019, https://doi.org/10.3390/data4010014). The example downloads what it
needs from PhysioNet into ``~/mne_data/eegmat``. If you have the
data set, set the environment variable ``EEGMAT_PATH``, or the entry of that
name in MNE's configuration, to its folder.

One seed and a few epochs keep the example short. For an answer, raise both.
"""

import sys
import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
import mne
import numpy as np
import pooch
import requests
import torch

from braindecode_sam import SAM, make_classifier
from braindecode_sam.comparison import compare
from braindecode_sam.datasets import (
    SubjectScaler,
    SubjectWindows,
    read_recordings,
)

N_SUBJECTS = 12  # of 36
N_EPOCHS = 8
N_SEEDS = 1
N_JOBS = 2  # fits in parallel
REPORT = "report_real.html"

# %%
# Recordings
# ----------
# ``SubjectNN_1.edf`` is rest, ``SubjectNN_2.edf`` mental arithmetic.
# PhysioNet's list of checksums tells whether a download is complete.


def download(names):
    """Download files that are not there yet, and return their paths."""
    folder = mne.datasets.default_path() / "eegmat"
    fetcher = pooch.create(
        folder, "https://physionet.org/files/eegmat/1.0.0/", registry=None
    )
    sums = pooch.retrieve(
        fetcher.base_url + "SHA256SUMS.txt", None, "SHA256SUMS.txt", folder
    )
    for line in Path(sums).read_text().splitlines():
        checksum, name = line.split(maxsplit=1)
        fetcher.registry[name] = checksum
    return [Path(fetcher.fetch(name)) for name in names]


people = range(N_SUBJECTS)
wanted = [f"Subject{i:02d}_{k}.edf" for i in people for k in (1, 2)]
folder = mne.get_config("EEGMAT_PATH")
if folder:
    files = [Path(folder) / name for name in wanted]
else:
    try:
        files = download(wanted)
    except requests.RequestException as error:
        sys.exit(
            "This example downloads recordings, and physionet.org cannot be"
            f" reached ({type(error).__name__})."
        )

# %%
# Windows, labels and subjects
# ----------------------------
# The first minute of each recording, at 125 Hz, in 15 windows of four
# seconds. Labels may be text.

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


# %%
# AdamW and SAM
# -------------
# The model is ``FastEEGNeX``. ``compare`` warns if a model is no better
# than predicting the class frequencies. ``by_epoch=True`` also scores the
# held-out subjects after every epoch. Nothing is chosen by these scores.


def candidate(optimizer):
    """Build a net with an optimizer."""
    return make_classifier(
        optimizer=optimizer, max_epochs=N_EPOCHS, augmentation=None,
        device="cpu", verbose=0,
    )  # fmt: skip


models = {"AdamW": candidate(torch.optim.AdamW), "SAM": candidate(SAM)}
result = compare(
    models, X, y, subjects, n_seeds=N_SEEDS, by_epoch=True, n_jobs=N_JOBS,
    verbose=0,
)  # fmt: skip

# %%
# Windows, and whole recordings
# -----------------------------
# The probabilities of a recording's windows are averaged to classify the
# recording. Where the log loss is above that of the dummy predictor at a
# balanced accuracy above 0.5, the probabilities are too extreme.

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
# The first sentence says which models have learned anything.

for sentence in result.sentences():
    print(textwrap.fill(sentence, 72))
result.plot()
result.plot_by_epoch()
plt.show()

# %%
# A page to keep
# --------------
# Sentences, figures, tables, settings and versions in one HTML file.

result.report(REPORT, title="Rest or arithmetic: AdamW or SAM?")
