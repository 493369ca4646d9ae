"""
SAM for free: FastEEGNeX against EEGNeX
=======================================

A SAM step makes two passes, so it costs twice a plain one. ``FastEEGNeX``
computes what braindecode's ``EEGNeX`` computes, in a cheaper order. On a
CPU, the gain is much larger than two. This example measures time and memory
of training steps on the shape of the competition's first challenge.
"""

import time

import matplotlib.pyplot as plt
import numpy as np
import torch
from braindecode.models import EEGNeX
from sklearn.model_selection import GroupShuffleSplit

from braindecode_sam import (
    SAM,
    FastEEGNeX,
    make_regressor,
    normalized_root_mean_squared_error,
)
from braindecode_sam.datasets import simulate_response_times, to_arrays

BATCH_SIZE = 32
N_STEPS = 3  # to time, of each kind
N_SUBJECTS = 8
N_TRIALS = 16
N_EPOCHS = 2

# %%
# The same numbers
# ----------------
# Both models have the same parameters with the same names, so weights go
# from one to the other. In float64, outputs and gradients agree to many
# digits.

torch.manual_seed(0)
small = {"n_chans": 8, "n_times": 250, "n_outputs": 1, "drop_prob": 0.0}
original, fast = EEGNeX(**small).double(), FastEEGNeX(**small).double()
fast.load_state_dict(original.state_dict())
x = torch.randn(4, 8, 250, dtype=torch.float64)
outputs, gradients = [], []
for model in (original, fast):
    outputs.append(model(x))
    parts = torch.autograd.grad(outputs[-1].sum(), model.parameters())
    gradients.append(torch.cat([part.flatten() for part in parts]))
for what, (a, b) in {"outputs": outputs, "gradients": gradients}.items():
    difference = (a - b).abs().max() / a.abs().max()
    print(f"largest difference of {what}: {difference:.1e}")

# %%
# Time of a step, and what autograd keeps for it
# ----------------------------------------------
# The kinds take turns, so that other work on the machine slows all of them.
# Most of the memory that training needs is what autograd keeps from the
# forward pass for the backward pass. The second pass of a SAM step begins
# when that of the first one is free again.

data = torch.randn(BATCH_SIZE, 72, 500), torch.randn(BATCH_SIZE, 1)
KINDS = {
    "EEGNeX, AdamW": (EEGNeX, torch.optim.AdamW),
    "EEGNeX, SAM": (EEGNeX, SAM),
    "FastEEGNeX, AdamW": (FastEEGNeX, torch.optim.AdamW),
    "FastEEGNeX, SAM": (FastEEGNeX, SAM),
}
BASELINE = "EEGNeX, AdamW"


def make_step(model, optimizer):
    """Build a training step as skorch makes it, and one pass of it."""
    module = model(n_chans=72, n_times=500, n_outputs=1)
    optimizer = optimizer(module.parameters(), lr=1e-3)

    def closure():
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(module(data[0]), data[1])
        loss.backward()
        return loss

    return lambda: optimizer.step(closure), closure


def kept_megabytes(one_pass):
    """Add up the tensors that autograd keeps in a pass."""
    sizes = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        one_pass()
    return sum(sizes.values()) / 2**20


steps, passes = {}, {}
for name, kind in KINDS.items():
    steps[name], passes[name] = make_step(*kind)
memory = {name: kept_megabytes(p) for name, p in passes.items()}
seconds = {name: [] for name in KINDS}
for _ in range(N_STEPS):
    for name, step in steps.items():
        start = time.perf_counter()
        step()
        seconds[name].append(time.perf_counter() - start)
milliseconds = {n: 1e3 * np.median(values) for n, values in seconds.items()}
n_threads = torch.get_num_threads()
print(f"One step with {n_threads} thread{'s' if n_threads > 1 else ''}:")
for name, median in milliseconds.items():
    print(
        f"{name:>17}: {median:7.1f} ms, autograd keeps"
        f" {memory[name]:6.1f} MiB"
    )

# %%
# On logarithmic axes. The number at a bar is the value of EEGNeX with AdamW
# divided by that of the bar.

figure, axes = plt.subplots(
    1, 2, figsize=(8, 3), layout="constrained", sharey=True
)
columns = {"Step (ms)": milliseconds, "Kept by autograd (MiB)": memory}
for ax, (label, values) in zip(axes, columns.items(), strict=True):
    numbers = np.array(list(values.values()))
    bars = ax.barh(list(values), numbers, color=["0.6", "0.6", "C0", "C1"])
    ratios = values[BASELINE] / numbers
    ax.bar_label(bars, [f"{ratio:.2g}×" for ratio in ratios], padding=3)
    ax.set(xscale="log", xlabel=label)
    ax.set_xlim(0.5 * numbers.min(), 4 * numbers.max())
axes[0].invert_yaxis()
plt.show()

# %%
# The same training
# -----------------
# Trained from the same seed without dropout, both models follow the same
# path, up to rounding. In float32 the scores agree to some digits only.
# Where a gradient is zero up to rounding, Adam turns the rounding error
# into a full-size update.

epochs = simulate_response_times(N_SUBJECTS, N_TRIALS, random_state=0)
X, y, subjects = to_arrays(epochs, target="response_time")
split = GroupShuffleSplit(n_splits=1, test_size=0.25, random_state=0)
train, test = next(split.split(X, y, subjects))
y = (y - y[train].mean()) / y[train].std()
for name, options in {
    "EEGNeX, AdamW": {"module": "EEGNeX", "optimizer": torch.optim.AdamW},
    "FastEEGNeX, AdamW": {"optimizer": torch.optim.AdamW},
    "FastEEGNeX, SAM": {"optimizer": SAM, "optimizer__rho": 0.1},
}.items():
    net = make_regressor(
        "challenge_1", device="cpu", batch_size=BATCH_SIZE,
        max_epochs=N_EPOCHS, random_state=0, verbose=0,
        module__drop_prob=0.0, **options,
    )  # fmt: skip
    start = time.perf_counter()
    net.fit(X[train], y[train])
    elapsed = time.perf_counter() - start
    score = normalized_root_mean_squared_error(
        y[test], net.predict(X[test])
    )
    loss = net.history[-1, "train_loss"]
    print(
        f"{name:>17}: training loss {loss:.4f}, NRMSE {score:.4f},"
        f" {elapsed:.1f} s"
    )
