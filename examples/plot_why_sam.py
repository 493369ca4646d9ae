"""
Why SAM: a flatter loss
=======================

SAM looks for weights around which the loss stays low.

Here pairs of models are trained on simulated EEG from the same initial
weights, one with AdamW and one with SAM around AdamW. Then the training
loss is followed along lines through both solutions: in random directions,
in random directions scaled filter by filter to the norm of the model's
filters (Li et al., 2018), and up the gradient, epoch by epoch.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from skorch.callbacks import Callback

from braindecode_sam import SAM, make_regressor
from braindecode_sam.datasets import simulate_response_times, to_arrays
from braindecode_sam.landscape import (
    loss_along,
    random_direction,
    sharpness,
)

N_SUBJECTS = 9
N_TRIALS = 20
N_EPOCHS = 15
N_SEEDS = 3
N_DIRECTIONS = 2  # of each kind and seed
COLORS = {"AdamW": "0.45", "SAM": "C0"}

# %%
# The data
# --------
# Simulated response times, standardized.

epochs = simulate_response_times(
    N_SUBJECTS,
    N_TRIALS,
    n_chans=24,
    n_times=125,
    sfreq=62.5,
    random_state=0,
)
X, y, _ = to_arrays(epochs, target="response_time")
y = (y - y.mean()) / y.std()

# %%
# Pairs that differ by SAM only
# -----------------------------
# After each epoch, a callback measures how much the loss over all training
# windows rises at a distance of 0.05 up the gradient. This is the sharpness
# that SAM minimizes with its default rho of 0.05, measured for both
# optimizers in the same way.


class Sharpness(Callback):
    """Measure the sharpness after each epoch."""

    def on_epoch_end(self, net, **kwargs):
        """Write it into the history."""
        value = sharpness(net, X, y, 0.05)
        net.history.record("sharpness_0.05", value)


def train_net(optimizer, seed):
    """Train a model with an optimizer from a seed."""
    net = make_regressor(
        "challenge_1", device="cpu", max_epochs=N_EPOCHS, verbose=0,
        module__n_chans=24, module__n_times=125, random_state=seed,
        callbacks=[("sharpness", Sharpness())], optimizer=optimizer,
    )  # fmt: skip
    return net.fit(X, y)


nets = {
    "AdamW": [train_net(torch.optim.AdamW, s) for s in range(N_SEEDS)],
    "SAM": [train_net(SAM, s) for s in range(N_SEEDS)],
}
for name, pair in nets.items():
    at_end = [n.history[-1, "sharpness_0.05"] for n in pair]
    print(f"{name}, sharpness of each seed: {np.round(at_end, 4)}")

# %%
# Lines through both solutions
# ----------------------------
# Each thin line is a direction from a solution, the thick one is their
# mean. The flatter curve is the flatter minimum. A line can fall below
# zero: the loss is measured without dropout and augmentation, and its
# minimum is not exactly where training ended.

kinds = {
    "none": ("Random directions", np.linspace(-2, 2, 13)),
    "filter": ("Filter-normalized directions", np.linspace(-0.5, 0.5, 13)),
}
figure, axes = plt.subplots(1, 2, figsize=(8, 3.6), layout="constrained")
for ax, (kind, (title, steps)) in zip(axes, kinds.items(), strict=True):
    for name, pair in nets.items():
        lines = np.array(
            [
                loss_along(
                    net, X, y,
                    random_direction(
                        net, normalization=kind, random_state=seed
                    ),
                    steps,
                )
                for net in pair
                for seed in range(N_DIRECTIONS)
            ]
        )  # fmt: skip
        rise = lines - lines[:, [len(steps) // 2]]
        at_ends = rise[:, [0, -1]].mean()
        print(
            f"{title}, {name}: the loss rises by {at_ends:.3f} at the ends"
        )
        ax.plot(steps, rise.T, color=COLORS[name], lw=0.5)
        ax.plot(
            steps, rise.mean(axis=0), color=COLORS[name], lw=2.5, label=name
        )
    unit = "filter norms" if kind == "filter" else "weights"
    ax.set(title=title, xlabel=f"Distance ({unit})")
    ax.legend()
axes[0].set_ylabel("Change of the training loss")
plt.show()

# %%
# Sharpness by epoch
# ------------------
# A line for each seed.

figure, ax = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
for name, pair in nets.items():
    for seed, net in enumerate(pair):
        ax.plot(
            np.arange(1, N_EPOCHS + 1), net.history[:, "sharpness_0.05"],
            color=COLORS[name], label=None if seed else name,
        )  # fmt: skip
ax.set(
    xlabel="Epoch",
    ylabel="Sharpness at a distance of 0.05",
    ylim=(0, None),
)
ax.legend()
plt.show()

# %%
# What this shows, and what it does not
# -------------------------------------
# If SAM's lines lie lower in the last figure, SAM found flatter minima.
# Whether flat minima also predict better depends on the data: in the
# :doc:`study </study>`, accuracy did not improve clearly on any data set.
# :func:`~braindecode_sam.comparison.compare` finds it out for yours.
