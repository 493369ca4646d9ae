"""
The EEG Challenge of 2025
=========================

Both tasks of the EEG Foundation Challenge, from recordings to weights.

The tasks are to predict the response times of a visual task and a trait of
each subject, from windows of 129 channels and 200 samples at 100 Hz. The
starter kit's ``submission.py`` loads the weights.

If the environment variable ``HBN_PATH`` names a folder, ``eegdash``
downloads the recordings of 20 subjects into it (``pip install eegdash``).
Without the variable, the example simulates a few recordings, from which no
net learns to predict better than the mean.
"""

import logging
import os
import tempfile
from pathlib import Path

import mne
import numpy as np
import pandas as pd
import torch
from braindecode.preprocessing import Preprocessor, preprocess
from sklearn.compose import TransformedTargetRegressor
from sklearn.dummy import DummyRegressor
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.preprocessing import StandardScaler
from skorch.callbacks import EarlyStopping

from braindecode_sam import make_regressor
from braindecode_sam import normalized_root_mean_squared_error as nrmse
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
DOWNLOAD = 1  # 0: read only what HBN_PATH holds already
WEIGHTS = "weights_challenge_{}.pt"

mne.set_log_level("warning")


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
    """Build a net that stops early by subject."""
    stop = EarlyStopping(patience=5, load_best=True, sink=lambda text: None)
    return make_regressor(
        config, max_epochs=N_EPOCHS, random_state=0, verbose=0,
        train_split=SubjectSplit(0.2, random_state=0),
        callbacks=[("stop", stop)],
    )  # fmt: skip


def score(net, X, y, subjects):
    """Print the NRMSE of folds of subjects, with all folds pooled."""
    n_subjects = len(np.unique(subjects))
    print(f"{len(X)} windows of {n_subjects} subjects, {X.shape[1:]}")
    for name, model in {"net": net, "mean": DummyRegressor()}.items():
        y_pred = cross_val_predict(
            model, X, y, groups=subjects, cv=GroupKFold(3)
        )
        print(f"NRMSE of the {name}: {nrmse(y, y_pred):.3f}")


# %%
# Recordings
# ----------

if "HBN_PATH" in os.environ:
    from eegdash import EEGChallengeDataset

    # eegdash shows the messages of all packages.
    logging.getLogger().setLevel("WARNING")
    recordings = EEGChallengeDataset(
        "R5",
        os.environ["HBN_PATH"],
        task="contrastChangeDetection",
        description_fields=["subject", "p_factor"],
        download=bool(DOWNLOAD),
    )
    microvolts = Preprocessor(lambda volts: 1e6 * volts, picks="eeg")
    preprocess(recordings, [microvolts])
else:
    with tempfile.TemporaryDirectory() as folder:
        simulate(Path(folder))
        recordings = read_recordings(
            sorted(Path(folder).glob("*.fif")),
            participants=Path(folder) / "participants.tsv",
        )

# %%
# Challenge 1: response times
# ---------------------------
# A window lasts two seconds and begins half a second after the stimulus, as
# in the starter kit. Early stopping uses subjects of the training folds,
# where the starter kit uses its test set.

windows = response_time_windows(
    recordings,
    stimulus=["left_target", "right_target"],
    response=["left_buttonPress", "right_buttonPress"],
    window_seconds=2.0, offset_seconds=0.5,
)  # fmt: skip
X, seconds, subjects = to_arrays(windows)
X = SubjectWindows(X, subjects)
net = TransformedTargetRegressor(
    make_net("challenge_1"), transformer=StandardScaler()
)
score(net, X, seconds, subjects)

# %%
# braindecode's ``EEGNeX(n_chans=129, n_outputs=1, n_times=200)`` loads the
# weights, and predicts seconds with them.

model = stock_model(net.fit(X, seconds))
torch.save(model.state_dict(), WEIGHTS.format(1))

# %%
# Challenge 2: a trait
# --------------------
# All windows of a subject have the same target: few subjects are few data,
# however long their recordings are. A factor score is standardized already.

windows = subject_target_windows(recordings, "p_factor", window_seconds=2.0)
X, factor, subjects = to_arrays(windows)
X = SubjectWindows(X, subjects)
net = make_net("challenge_2")
score(net, X, factor, subjects)
model = stock_model(net.fit(X, factor))
torch.save(model.state_dict(), WEIGHTS.format(2))
