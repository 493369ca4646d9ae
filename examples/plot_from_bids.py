"""
From a BIDS folder to scores
============================

Read a BIDS folder, cut windows with response times, and score a net.

The EEG of the Healthy Brain Network, the data of the EEG Foundation
Challenge of 2025, comes as BIDS folders: 129 channels at 100 Hz, a table of
participants and for each recording a file of events. This example writes
such a folder from simulated EEG with MNE-BIDS and reads it as it would read
any other. For the public data, change one line. Needs
``pip install ".[bids]"`` in the project's folder.
"""

import tempfile
import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
import mne
import mne_bids
import numpy as np
from braindecode.datasets import BIDSDataset
from braindecode.preprocessing import Preprocessor, preprocess
from sklearn.compose import TransformedTargetRegressor
from sklearn.preprocessing import StandardScaler

from braindecode_sam import make_regressor
from braindecode_sam.comparison import compare
from braindecode_sam.datasets import (
    response_time_windows,
    simulate_response_times,
    to_arrays,
)

N_SUBJECTS = 12
N_TRIALS = 16
N_EPOCHS = 10
N_JOBS = 2  # fits in parallel
FOLDER = ""  # where to write; a temporary folder if empty
TASK = "contrastChangeDetection"

# %%
# A folder to read
# ----------------
# Each simulated trial of four seconds begins with a target on the left or
# on the right. The button is pressed after the response time.

mne.set_log_level("error")
temporary = tempfile.TemporaryDirectory()
root = Path(FOLDER or temporary.name)


def write_recording(subject, epochs):
    """Write the trials of a subject end to end, with their events."""
    data = np.concatenate(epochs.get_data(copy=False), axis=-1)
    times = epochs.metadata["response_time"].to_numpy()
    onsets = 4.0 * np.arange(len(times))
    sides = np.resize(["left", "right"], len(times))
    events = [f"{side}_target" for side in sides]
    events += [f"{side}_buttonPress" for side in sides]
    raw = mne.io.RawArray(data, epochs.info)
    raw.set_annotations(
        mne.Annotations([*onsets, *(onsets + times)], 0.1, events)
    )
    path = mne_bids.BIDSPath(
        subject=subject.removeprefix("sub-"), task=TASK, datatype="eeg",
        root=root,
    )  # fmt: skip
    mne_bids.write_raw_bids(
        raw, path, format="BrainVision", allow_preload=True, verbose=False
    )


if not (root / "participants.tsv").exists():
    simulated = simulate_response_times(
        N_SUBJECTS, N_TRIALS, n_chans=129, n_times=400, sfreq=100,
        random_state=0,
    )  # fmt: skip
    for subject in simulated.metadata["subject"].unique():
        write_recording(subject, simulated[f"subject == '{subject}'"])
print(*sorted(path.name for path in root.glob("*")), sep="\n")

# %%
# Reading it
# ----------
# From here on, nothing depends on where the folder came from.

recordings = BIDSDataset(root=root, tasks=TASK)

# %%
# For the public data, replace this line. The following downloads twenty
# subjects of one release (``pip install eegdash``)::
#
#     from eegdash.dataset import EEGChallengeDataset
#
#     recordings = EEGChallengeDataset(
#         release="R5", cache_dir="hbn", mini=True, task=TASK
#     )
#
# Convert volts to microvolts: in volts, the variance (about 1e-10) vanishes
# against the ``eps`` of BatchNorm (1e-5).


def to_microvolts(volts):
    """Change the unit."""
    return volts * 1e6


preprocess(recordings, [Preprocessor(to_microvolts, picks="eeg")])

# %%
# Two seconds from the target on, with the response time
# ------------------------------------------------------
# The challenge's windows begin half a second after the target, with
# ``offset_seconds=0.5``: its response times are longer than the simulated
# ones. To predict a column of ``participants.tsv`` instead, use
# :func:`~braindecode_sam.datasets.subject_target_windows`.

windows = response_time_windows(
    recordings,
    stimulus=["left_target", "right_target"],
    response=["left_buttonPress", "right_buttonPress"],
    window_seconds=2.0,
)
X, y, subjects = to_arrays(windows)
n_subjects, n_chans, n_times = len(set(subjects)), *X.shape[1:]
print(f"{len(X)} windows of {n_subjects} subjects, {n_chans} x {n_times}")

# %%
# Five folds of subjects
# ----------------------
# The net is EEGNeX, trained with SAM. With a single net, ``compare``
# compares it with predicting the mean.

net = make_regressor(
    "challenge_1", module__n_chans=n_chans, module__n_times=n_times,
    batch_size=16, max_epochs=N_EPOCHS, verbose=0,
)  # fmt: skip
net = TransformedTargetRegressor(net, transformer=StandardScaler())
result = compare(
    {"EEGNeX": net}, X, y.ravel(), subjects, n_seeds=1, n_jobs=N_JOBS,
    verbose=0,
)  # fmt: skip
table = -result.to_frame()[["neg_nrmse", "neg_nrmse_folds"]]
table.columns = ["NRMSE, pooled", "NRMSE, mean of folds"]
print(table.rename({"dummy": "mean predictor"}).round(3))
for sentence in result.sentences():
    print(textwrap.fill(sentence, 72))
result.plot()
plt.show()
temporary.cleanup()
