"""
Callbacks and schedules
=======================

``SAMCallback`` changes rho from epoch to epoch, restricts SAM to
normalization layers and records the sharpness in ``net.history``. Learning
rate schedulers of torch work as with any optimizer.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.model_selection import GroupShuffleSplit
from skorch.callbacks import LRScheduler

from braindecode_sam import SAM, SAMCallback, make_classifier
from braindecode_sam.datasets import simulate_response_times, to_arrays
from braindecode_sam.visualization import plot_history

N_SUBJECTS = 12
N_TRIALS = 16
N_EPOCHS = 20

epochs = simulate_response_times(
    N_SUBJECTS, N_TRIALS, n_chans=16, n_times=250, random_state=0
)
X, seconds, subjects = to_arrays(epochs, target="response_time")
medians = [np.median(seconds[subjects == s]) for s in subjects]
y = np.where(seconds < medians, "fast", "slow")
split = GroupShuffleSplit(n_splits=1, test_size=0.25, random_state=0)
train, test = next(split.split(X, y, subjects))

# %%
# Schedules of rho, and SAM on normalization layers
# -------------------------------------------------
# A late start trains as AdamW for the first epochs, at the cost of AdamW.
# SAM-ON perturbs normalization layers only, usually with a larger rho. A
# callable sets any schedule: ``SAMCallback(rho=lambda epoch: ...)``. The
# nets that :func:`~braindecode_sam.make_classifier` builds with SAM have a
# callback named ``sam``, so its options are parameters of the net.

SCHEDULES = {
    "constant": {},
    "late": {"callbacks__sam__start_epoch": N_EPOCHS // 2},
    "cosine": {"callbacks__sam__schedule": "cosine"},
    "SAM-ON": {
        "callbacks__sam__perturb": "norm",
        "callbacks__sam__rho": 0.5,
    },
}
options = {
    "module": "FastEEGNet", "device": "cpu", "batch_size": 16,
    "max_epochs": N_EPOCHS, "random_state": 0, "verbose": 0,
}  # fmt: skip
nets = {"AdamW": make_classifier(optimizer=torch.optim.AdamW, **options)}
for name, schedule in SCHEDULES.items():
    net = make_classifier(optimizer=SAM, optimizer__rho=0.1, **options)
    nets[name] = net.set_params(**schedule)
for name, net in nets.items():
    net.fit(X[train], y[train])
    print(
        f"{name:>8}: training loss {net.history[-1, 'train_loss']:.3f},"
        f" test accuracy {net.score(X[test], y[test]):.3f}"
    )

# %%
# One split and one seed show how the options work, not which is best. That
# takes :func:`~braindecode_sam.comparison.compare`.

figure, (left, right) = plt.subplots(
    1, 2, figsize=(8, 3.6), layout="constrained"
)
epoch = np.arange(1, N_EPOCHS + 1)
for name in SCHEDULES:
    history = nets[name].history
    left.plot(epoch, history[:, "rho"], label=name)
    right.plot(epoch, history[:, "sharpness"], label=name)
left.set(xlabel="Epoch", ylabel="rho (weights)")
left.legend(frameon=False)
right.set(xlabel="Epoch", ylabel="Sharpness (loss)")
plt.show()

# %%
# The sharpness is that of the perturbation that was made. Where rho is 0
# there is none; a larger rho and other perturbed layers give other values.
# Compare it between epochs of one training, not between the lines above.

# %%
# With a learning rate schedule
# -----------------------------
# skorch's ``LRScheduler`` takes schedulers of torch by class. For nets that
# are built otherwise, add ``SAMCallback`` to the callbacks in the same way.

net = make_classifier(
    optimizer=SAM, optimizer__rho=0.1, lr=2e-3,
    callbacks=[
        (
            "lr",
            LRScheduler(
                torch.optim.lr_scheduler.CosineAnnealingLR, T_max=N_EPOCHS
            ),
        )
    ],
    **options,
)  # fmt: skip
net.set_params(callbacks__sam=SAMCallback(schedule="linear"))
net.fit(X[train], y[train])
rates = net.history[:, "event_lr"]
print(f"learning rate: {rates[0]:.4f} to {rates[-1]:.4f}")

# %%
# ``plot_history`` draws the losses and, below, what SAM measured. A rho
# that changes has its own panel.

figure, ax = plt.subplots(figsize=(6.4, 6), layout="constrained")
plot_history(net, ax=ax)
plt.show()
