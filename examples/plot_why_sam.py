"""
Why SAM: the loss around the weights that AdamW and SAM find
============================================================

SAM looks for weights around which the loss stays low. Here two nets are trained on
simulated EEG from the same first weights, one by AdamW and one by SAM around AdamW,
and then the loss is followed along lines through both solutions: in random directions,
in random directions whose filters are as large as the net's own (Li et al. 2018), and
up the gradient, epoch by epoch.
"""

import argparse

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.model_selection import GroupShuffleSplit
from skorch.callbacks import Callback

from braindecode_sam import SAM, make_regressor
from braindecode_sam.datasets import simulate_response_times, to_arrays
from braindecode_sam.landscape import loss_along, random_direction, sharpness

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--subjects", type=int, default=12)
parser.add_argument("--epochs", type=int, default=20)
parser.add_argument("--rho", type=float, default=0.1, help="SAM's radius")
parser.add_argument("--directions", type=int, default=5, help="of each kind")
args = parser.parse_args()

# %%
# The data
# --------
# A quarter of the subjects is kept for testing.

epochs = simulate_response_times(
    args.subjects, 20, n_chans=24, n_times=250, random_state=0
)
X, y, subjects = to_arrays(epochs, target="response_time")
split = GroupShuffleSplit(n_splits=1, test_size=0.25, random_state=0)
train, test = next(split.split(X, y, subjects))
y = (y - y[train].mean()) / y[train].std()

# %%
# Two nets that differ in nothing but SAM
# ---------------------------------------
# A callback measures after each epoch how much the loss over all training windows can
# rise within a distance of 0.05: the sharpness that SAM is to reduce, measured for both
# in the same way.


class Sharpness(Callback):
    """Measure the sharpness after each epoch."""

    def on_epoch_end(self, net, **kwargs):
        """Write it into the history."""
        net.history.record("sharpness_0.05", sharpness(net, X[train], y[train], 0.05))


def train_net(optimizer, **options):
    """Train by an optimizer, always from the same seed."""
    net = make_regressor(
        "challenge_1", device="cpu", max_epochs=args.epochs, optimizer=optimizer,
        module__n_chans=24, module__n_times=250, random_state=0, verbose=0,
        callbacks=[("sharpness", Sharpness())], **options,
    )  # fmt: skip
    net.fit(X[train], y[train])
    return net


nets = {
    "AdamW": train_net(torch.optim.AdamW),
    "SAM": train_net(SAM, optimizer__rho=args.rho),
}
for name, net in nets.items():
    error = np.mean((net.predict(X[test]).ravel() - y[test]) ** 2)
    print(
        f"{name}: loss {net.history[-1, 'train_loss']:.3f} in training, {error:.3f} on"
        f" new subjects, sharpness {net.history[-1, 'sharpness_0.05']:.4f}"
    )

# %%
# Lines through both solutions
# ----------------------------
# Each thin line is a direction, the thick one their mean.

kinds = {
    "none": ("Random directions", np.linspace(-2, 2, 13)),
    "filter": ("Filter-normalized directions", np.linspace(-0.5, 0.5, 13)),
}
figure, (left, middle, right) = plt.subplots(
    1, 3, figsize=(13, 4), layout="constrained"
)
for ax, (kind, (title, steps)) in zip((left, middle), kinds.items(), strict=True):
    for color, (name, net) in zip(("C0", "C1"), nets.items(), strict=True):
        lines = [
            loss_along(
                net, X[train], y[train],
                random_direction(net, normalization=kind, random_state=seed), steps,
            )
            for seed in range(args.directions)
        ]  # fmt: skip
        rise = np.array(lines) - np.array(lines)[:, [len(steps) // 2]]
        print(f"{title}, {name}: the loss rises by {rise[:, [0, -1]].mean():.3f}")
        ax.plot(steps, rise.T, color=color, lw=0.5)
        ax.plot(steps, rise.mean(axis=0), color=color, lw=2.5, label=name)
    unit = "filter norms" if kind == "filter" else "weights"
    ax.set(title=title, xlabel=f"Distance ({unit})", ylabel="Rise of the training loss")
    ax.legend()

for name, net in nets.items():
    right.plot(
        np.arange(1, args.epochs + 1), net.history[:, "sharpness_0.05"], label=name
    )
right.set(
    title="Up the gradient, distance 0.05",
    xlabel="Epoch",
    ylabel="Sharpness (training loss)",
    yscale="log",
)
right.legend()
plt.show()

# %%
# What this shows, and what not
# -----------------------------
# The picture on the right is what SAM is made for. That flat solutions also predict
# better is an observation that holds for many data sets and not for all: the scores on
# new subjects, printed above, and the study's page have the last word.
