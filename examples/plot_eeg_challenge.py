"""
The EEG challenge of 2025
=========================

Both tasks of the EEG Foundation Challenge, from recordings to weights that
its starter kit's ``submission.py`` loads: response times of a visual task,
and a trait of each subject. Windows have 129 channels and 200 samples at
100 Hz.

With ``HBN_PATH``, the folder of a release, the recordings are read by
``eegdash``. Without it, a small simulation of them is used. It shows the
way and is no result: from so few windows, no net predicts better than the
mean.
"""

import os
import tempfile
from pathlib import Path

import mne
import numpy as np
import pandas as pd
import torch
from braindecode.preprocessing import Preprocessor, preprocess
from sklearn.compose import TransformedTargetRegressor
from sklearn.model_selection import GroupKFold, cross_validate
from sklearn.preprocessing import StandardScaler
from skorch.callbacks import EarlyStopping

from braindecode_sam import SCORING, make_regressor
from braindecode_sam.datasets import (
    SubjectWindows,
    read_recordings,
    response_time_windows,
    simulate_response_times,
    subject_target_windows,
    to_arrays,
)
from braindecode_sam.model_selection import SubjectSplit
from braindecode_sam.nets import stock_model

N_SUBJECTS = 10
N_TRIALS = 16
N_EPOCHS = 10

mne.set_log_level("warning")
folder = Path(tempfile.mkdtemp())


def simulate(folder):
    """Write recordings with the events of the challenge, and a table."""
    epochs = simulate_response_times(
        N_SUBJECTS,
        N_TRIALS,
        n_chans=129,
        n_times=400,
        sfreq=100,
        random_state=0,
    )
    rng = np.random.default_rng(0)
    subjects = epochs.metadata["subject"].to_numpy()
    for subject in np.unique(subjects):
        mine = epochs[subjects == subject]
        signals = np.concatenate(list(mine.get_data()), axis=1)
        raw = mne.io.RawArray(signals, mne.create_info(129, 100, "eeg"))
        onsets, names = [], []
        for i, seconds in enumerate(mine.metadata["response_time"]):
            side = rng.choice(["left", "right"])
            onsets += [4 * i + 0.5, 4 * i + 0.5 + seconds]
            names += [f"{side}_target", f"{side}_buttonPress"]
        raw.set_annotations(mne.Annotations(onsets, 0, names))
        raw.save(
            folder / f"{subject}_task-contrast_raw.fif", verbose="error"
        )
    names = [f"sub-{i + 1:03d}" for i in range(N_SUBJECTS)]
    factor = rng.normal(size=N_SUBJECTS)
    table = pd.DataFrame({"participant_id": names, "p_factor": factor})
    table.to_csv(folder / "participants.tsv", sep="\t", index=False)


def make_net(config):
    """Build a net that stops early by subject and standardizes targets."""
    stop = EarlyStopping(patience=5, load_best=True, sink=lambda text: None)
    net = make_regressor(
        config, max_epochs=N_EPOCHS, random_state=0, verbose=0,
        train_split=SubjectSplit(0.2, random_state=0),
        callbacks=[("stop", stop)],
    )  # fmt: skip
    return TransformedTargetRegressor(net, transformer=StandardScaler())


def score(net, X, y, subjects):
    """Cross-validate by subject."""
    scores = cross_validate(
        net, X, y, groups=subjects, cv=GroupKFold(3), scoring=SCORING,
        error_score="raise",
    )  # fmt: skip
    return -scores["test_neg_nrmse"].mean()


# %%
# Recordings
# ----------

if "HBN_PATH" in os.environ:
    from eegdash import EEGChallengeDataset

    recordings = EEGChallengeDataset(
        "R5", os.environ["HBN_PATH"], task="contrastChangeDetection"
    )
    microvolts = Preprocessor(lambda volts: 1e6 * volts, picks="eeg")
    preprocess(recordings, [microvolts])
    table = next(Path(os.environ["HBN_PATH"]).rglob("participants.tsv"))
else:
    simulate(folder)
    recordings = read_recordings(sorted(folder.glob("*.fif")))
    table = folder / "participants.tsv"

# %%
# Challenge 1: response times
# ---------------------------
# A window of two seconds from half a second after the stimulus. Early
# stopping uses subjects of the training folds, where the starter kit uses
# its test set.

windows = response_time_windows(
    recordings,
    stimulus=["left_target", "right_target"],
    response=["left_buttonPress", "right_buttonPress"],
    window_seconds=2.0, offset_seconds=0.5,
)  # fmt: skip
X, seconds, subjects = to_arrays(windows)
X = SubjectWindows(X, subjects)
net = make_net("challenge_1")
nrmse = score(net, X, seconds, subjects)
n_subjects = len(np.unique(subjects))
print(f"{len(X)} windows of {n_subjects} subjects, {X.shape[1:]}")
print(f"Challenge 1: NRMSE {nrmse:.3f}, mean predictor 1")

# %%
# Weights for the submission: braindecode's
# ``EEGNeX(n_chans=129, n_outputs=1, n_times=200)`` loads them.

model = stock_model(net.fit(X, seconds))
torch.save(model.state_dict(), folder / "weights_challenge_1.pt")

# %%
# Challenge 2: a trait
# --------------------
# All windows of a subject have the same target, so that few subjects are
# few data, however long their recordings are.

windows = subject_target_windows(
    recordings, "p_factor", participants=table, window_seconds=2.0
)
X, factor, subjects = to_arrays(windows)
X = SubjectWindows(X, subjects)
net = make_net("challenge_2")
nrmse = score(net, X, factor, subjects)
print(f"Challenge 2: NRMSE {nrmse:.3f}, mean predictor 1")
model = stock_model(net.fit(X, factor))
torch.save(model.state_dict(), folder / "weights_challenge_2.pt")
