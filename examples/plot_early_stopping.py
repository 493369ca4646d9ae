"""
Early stopping by subject, and resuming
=======================================

Choose the epoch on held-out training subjects, and survive a power cut.

Early stopping needs data to validate on. Taken from the test fold, they
would choose the epoch that suits it; taken window by window, they would
hold subjects on which the model trains. ``SubjectSplit`` holds out subjects
of the *training* fold. ``ResumableCheckpoint`` lets a training that was
interrupted continue as if nothing had happened.
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.model_selection import GroupShuffleSplit
from skorch.callbacks import Callback, EarlyStopping

from braindecode_sam import SAM, make_classifier
from braindecode_sam.callbacks import ResumableCheckpoint
from braindecode_sam.datasets import (
    SubjectWindows,
    simulate_response_times,
    to_arrays,
)
from braindecode_sam.model_selection import SubjectSplit

N_SUBJECTS = 16
N_TRIALS = 16
N_EPOCHS = 40
PATIENCE = 5
N_EPOCHS_TO_RESUME = 6

epochs = simulate_response_times(
    N_SUBJECTS, N_TRIALS, n_chans=16, n_times=250, random_state=0
)
X, seconds, subjects = to_arrays(epochs, target="response_time")
medians = [np.median(seconds[subjects == s]) for s in subjects]
y = np.where(seconds < medians, "fast", "slow")
split = GroupShuffleSplit(n_splits=1, test_size=0.25, random_state=0)
train, test = next(split.split(X, y, subjects))

# %%
# Stop by the loss on held-out training subjects
# ----------------------------------------------
# ``SubjectWindows`` keeps the subject of each window, also after
# scikit-learn has taken a fold out of it. ``load_best=True`` returns
# to the weights of the best epoch.

X = SubjectWindows(X, subjects)


def train_net(optimizer):
    """Train until the validation loss no longer falls."""
    net = make_classifier(
        module="FastEEGNet", device="cpu", max_epochs=N_EPOCHS,
        batch_size=16, optimizer=optimizer, random_state=0, verbose=0,
        train_split=SubjectSplit(0.25, random_state=0),
        callbacks=[
            ("stop", EarlyStopping(patience=PATIENCE, load_best=True,
                                   sink=lambda text: None)),
        ],
    )  # fmt: skip
    return net.fit(X[train], y[train])


nets = {
    "AdamW": train_net(torch.optim.AdamW),
    "SAM": train_net(SAM),
}
for name, net in nets.items():
    valid = net.history[:, "valid_loss"]
    print(
        f"{name}: {len(valid)} epochs, best {np.argmin(valid) + 1},"
        f" accuracy on the test subjects {net.score(X[test], y[test]):.3f}"
    )

# %%
# The circle is the epoch whose weights predict. A few subjects choose it,
# so it varies with the split. Report scores of the test fold only.

figure, axes = plt.subplots(
    1, 2, figsize=(8, 3.6), layout="constrained", sharey=True
)
colors = {"AdamW": "0.45", "SAM": "C0"}
for ax, (name, net) in zip(axes, nets.items(), strict=True):
    color = colors[name]
    epoch = np.arange(1, len(net.history) + 1)
    valid = np.array(net.history[:, "valid_loss"])
    ax.plot(
        epoch, net.history[:, "train_loss"], "--", c=color, label="training"
    )
    ax.plot(epoch, valid, c=color, label="validation")
    best = valid.argmin()
    ax.plot(epoch[best], valid[best], "o", ms=11, mfc="none", c=color)
    ax.set(title=name, xlabel="Epoch")
axes[0].set_ylabel("Log loss")
axes[0].legend(frameon=False)
plt.show()

# %%
# Interrupted and resumed
# -----------------------
# A callback stands for the power cut: it raises an error, once. In your
# own script, ``checkpoint.resume(net, X, y) if checkpoint.exists() else
# net.fit(X, y)`` is all that is needed. The script may be killed at any
# time, and the next run of it continues.

power_cuts = [N_EPOCHS_TO_RESUME]


class PowerCut(Callback):
    """Fail in one epoch of the first training."""

    def on_epoch_end(self, net, **kwargs):
        """Raise an error if it is time."""
        if len(net.history) in power_cuts:
            power_cuts.clear()
            raise RuntimeError("power cut")


def make_net(checkpoint):
    """Build a net that writes a checkpoint after every epoch."""
    return make_classifier(
        module="FastEEGNet", device="cpu", batch_size=16,
        max_epochs=2 * N_EPOCHS_TO_RESUME, random_state=0, verbose=0,
        callbacks=[("checkpoint", checkpoint), ("power_cut", PowerCut())],
    )  # fmt: skip


with tempfile.TemporaryDirectory() as folder:
    checkpoint = ResumableCheckpoint(Path(folder) / "interrupted.pt")
    try:
        make_net(checkpoint).fit(X[train], y[train])
    except RuntimeError as error:
        print(f"Training ended with: {error}")
    resumed = checkpoint.resume(make_net(checkpoint), X[train], y[train])
    other = ResumableCheckpoint(Path(folder) / "in_one_go.pt")
    in_one_go = make_net(other).fit(X[train], y[train])

resumed, in_one_go = (
    net.module_.state_dict() for net in (resumed, in_one_go)
)
are_equal = all(torch.equal(resumed[k], in_one_go[k]) for k in in_one_go)
print(f"Resumed and trained in one go, weights are equal: {are_equal}")
