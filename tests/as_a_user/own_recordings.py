"""Recordings in a folder, a table of subjects, and their trait as the target."""

import mne
import numpy as np
import pandas as pd

from braindecode_sam import make_regressor
from braindecode_sam.datasets import (
    SubjectWindows,
    read_recordings,
    subject_target_windows,
    to_arrays,
)

rng = np.random.default_rng(0)
info = mne.create_info(["Fz", "Cz", "Pz"], 100.0, "eeg")
files = []
for i in range(6):
    raw = mne.io.RawArray(1e-5 * rng.normal(size=(3, 1000)), info, verbose="error")
    raw.save(f"sub-{i}_task-rest_raw.fif", verbose="error")
    files.append(f"sub-{i}_task-rest_raw.fif")
people = pd.DataFrame({"participant_id": [f"sub-{i}" for i in range(6)]})
people["age"] = np.arange(20.0, 26.0)
recordings = read_recordings(files, participants=people)
windows = subject_target_windows(recordings, "age", window_seconds=2.0)
X, y, groups = to_arrays(windows)
print(X.shape, y.shape, len(set(groups)), round(float(X.std())))
net = make_regressor(
    module__n_chans=3, module__n_times=200, batch_size=8, max_epochs=1, verbose=0
)
print(net.fit(SubjectWindows(X, groups), y).predict(X).shape)
print(net.fit(windows, y=None).predict(windows).shape)

# Prints:
# (30, 3, 200) (30,) 6 10
# (30,)
# (30,)
