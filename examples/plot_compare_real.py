"""
Does SAM help on real EEG? Rest or arithmetic
=============================================

Tells whether a person rests or does mental arithmetic, with AdamW and with SAM, on the
data set "EEG During Mental Arithmetic Tasks" (Zyma et al. 2019,
https://doi.org/10.3390/data4010014, on PhysioNet as ``eegmat``)::

    python examples/plot_compare_real.py FOLDER

FOLDER holds ``SubjectNN_1.edf`` (rest) and ``SubjectNN_2.edf`` (arithmetic). One seed
and a few epochs keep it under two minutes on two cores; for an answer, raise both.
"""

import argparse
import sys
import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

from braindecode_sam import SAM, make_classifier
from braindecode_sam.comparison import compare
from braindecode_sam.datasets import SubjectScaler, SubjectWindows, read_recordings

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("folder", type=Path, help="with SubjectNN_1.edf, SubjectNN_2.edf")
parser.add_argument("--subjects", type=int, default=12, help="only the first of them")
parser.add_argument("--epochs", type=int, default=8)
parser.add_argument("--seeds", type=int, default=1)
parser.add_argument("--jobs", type=int, default=2, help="fits at a time")
parser.add_argument("--report", default="report.html", help="the page to write")
if len(sys.argv) == 1:
    print(__doc__, parser.format_usage(), sep="\n")
    sys.exit()
args = parser.parse_args()

# %%
# Windows, labels and subjects
# ----------------------------
# The first minute of each recording, at 125 Hz, in windows of four seconds. Labels may
# be strings.

files = sorted(args.folder.glob("Subject*_[12].edf"))[: 2 * args.subjects]
if not files:
    sys.exit(f"{args.folder} holds no file named like Subject00_1.edf")
recordings = read_recordings(files, sfreq=125.0, crop=(0, 60))
names = [n for n in recordings.datasets[0].raw.ch_names if n.startswith("EEG ")][:19]
signals = np.stack([r.raw.get_data(names)[:, :7500] for r in recordings.datasets])
windows = signals.reshape(len(files), 19, 15, 500).swapaxes(1, 2).reshape(-1, 19, 500)
X = windows.astype(np.float32)
y = np.repeat(["rest" if f.stem.endswith("_1") else "arithmetic" for f in files], 15)
recording = np.repeat([f.stem for f in files], 15)
subjects = np.repeat([f.stem.split("_")[0] for f in files], 15)
print(f"{len(X)} windows of {len(set(subjects))} people, {X.shape[1]} x {X.shape[2]}")

# %%
# Each person by their own scale
# ------------------------------
# How large the EEG is differs between people and tells nothing about the task. The
# scaler uses each person's own windows and no labels, so it does not leak.

X = SubjectScaler().fit_transform(SubjectWindows(X, subjects))


def candidate(optimizer, **options):
    """Build a net with an optimizer."""
    return make_classifier(
        device="cpu", max_epochs=args.epochs, verbose=0, optimizer=optimizer,
        augmentation=None, **options,
    )  # fmt: skip


result = compare(
    {
        "AdamW": candidate(torch.optim.AdamW),
        "SAM": candidate(SAM, optimizer__rho=0.1),
    },
    X, y, subjects, n_seeds=args.seeds, by_epoch=True, n_jobs=args.jobs,
)  # fmt: skip

# %%
# Windows, and whole recordings
# -----------------------------
# Averaging the probabilities of a recording's windows answers the question for the
# recording.

per_unit = {"windows": result, "recordings": result.by_recording(recording)}
for unit, found in per_unit.items():
    print(f"\n{unit}")
    print(found.to_frame()[["balanced_accuracy", "roc_auc", "loss"]].round(3))

# %%
# What it shows
# -------------

for sentence in result.sentences():
    print(textwrap.fill(sentence, 80))
result.plot()
result.plot_by_epoch()
plt.show()

# %%
# A page to keep
# --------------

result.report(args.report, title="Rest or arithmetic: AdamW or SAM?")
