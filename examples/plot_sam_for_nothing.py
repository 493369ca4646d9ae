"""
SAM for nothing: FastEEGNeX beside the stock model
==================================================

A SAM step makes two passes, so it costs twice a plain one. ``FastEEGNeX`` computes what
braindecode's ``EEGNeX`` computes in another order, so much faster that SAM on it costs
a fraction of plain AdamW on the stock model, and gets to the same scores. This script
measures time, memory and scores on the shapes of the first challenge.
"""

import argparse
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

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--epochs", type=int, default=2)
parser.add_argument("--subjects", type=int, default=8)
parser.add_argument("--steps", type=int, default=3, help="to time, of each kind")
args = parser.parse_args()

# %%
# The same numbers
# ----------------
# Both models have the same parameters by the same names, so weights go from one to the
# other. In float64 outputs and gradients agree to many digits.

torch.manual_seed(0)
small = {"n_chans": 8, "n_times": 250, "n_outputs": 1, "drop_prob": 0.0}
stock, fast = EEGNeX(**small).double(), FastEEGNeX(**small).double()
fast.load_state_dict(stock.state_dict())
x = torch.randn(4, 8, 250, dtype=torch.float64)
outputs = [model(x) for model in (stock, fast)]
gradients = [
    torch.cat([g.flatten() for g in torch.autograd.grad(out.sum(), model.parameters())])
    for model, out in zip((stock, fast), outputs, strict=True)
]
for what, (a, b) in {"outputs": outputs, "gradients": gradients}.items():
    print(f"largest difference of {what}: {(a - b).abs().max() / a.abs().max():.1e}")

# %%
# Time of a step, and what autograd keeps for it
# ----------------------------------------------
# The kinds take turns, so that a busy machine is busy for all of them. What autograd
# keeps from the forward pass for the backward pass is most of what training needs; the
# second pass of a SAM step begins when the first one's is free again.

data = torch.randn(32, 72, 500), torch.randn(32, 1)
KINDS = {
    "stock, AdamW": (EEGNeX, torch.optim.AdamW),
    "stock, SAM": (EEGNeX, SAM),
    "fast, AdamW": (FastEEGNeX, torch.optim.AdamW),
    "fast, SAM": (FastEEGNeX, SAM),
}


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
    """Sum up the tensors that autograd keeps in a pass, each storage once."""
    sizes = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        one_pass()
    return sum(sizes.values()) / 2**20


steps, passes = {}, {}
for name, kind in KINDS.items():
    steps[name], passes[name] = make_step(*kind)
memory = {name: kept_megabytes(one_pass) for name, one_pass in passes.items()}
seconds = {name: [] for name in KINDS}
for _ in range(args.steps):
    for name, step in steps.items():
        start = time.perf_counter()
        step()
        seconds[name].append(time.perf_counter() - start)
seconds = {name: np.median(values) for name, values in seconds.items()}
print(f"With {torch.get_num_threads()} threads:")
for name, median in seconds.items():
    ratio = seconds["stock, AdamW"] / median
    print(
        f"{name:>12}: {1e3 * median:7.1f} ms a step, {ratio:5.1f} times as fast as"
        f" stock AdamW; autograd keeps {memory[name]:6.1f} MiB"
    )

# %%
# The same scores
# ---------------
# Trained from the same seed, without dropout, in float32: rounding differs, and Adam
# makes a full step of a rounding error where a gradient is zero, so that the scores
# agree to some digits and not to all.

epochs = simulate_response_times(args.subjects, 16, random_state=0)
X, y, subjects = to_arrays(epochs, target="response_time")
split = GroupShuffleSplit(n_splits=1, test_size=0.25, random_state=0)
train, test = next(split.split(X, y, subjects))
y = (y - y[train].mean()) / y[train].std()
scores = {}
for name, options in {
    "stock, AdamW": {"module": "EEGNeX", "optimizer": torch.optim.AdamW},
    "fast, AdamW": {"optimizer": torch.optim.AdamW},
    "fast, SAM": {},
}.items():
    net = make_regressor(
        "challenge_1", device="cpu", max_epochs=args.epochs, random_state=0, verbose=0,
        module__drop_prob=0.0, **options,
    )  # fmt: skip
    start = time.perf_counter()
    net.fit(X[train], y[train])
    elapsed = time.perf_counter() - start
    scores[name] = normalized_root_mean_squared_error(y[test], net.predict(X[test]))
    print(f"{name:>12}: NRMSE {scores[name]:.4f} after {elapsed:.1f} s of training")

# %%
# Pictures
# --------

figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
columns = {"Milliseconds a step": seconds, "MiB kept by autograd": memory}
for ax, (title, values) in zip(axes, columns.items(), strict=True):
    factor = 1e3 if values is seconds else 1
    numbers = factor * np.array(list(values.values()))
    bars = ax.bar(list(values), numbers, color=["C7", "C7", "C0", "C1"])
    ax.bar_label(bars, fmt="%.0f")
    ax.set(title=title, ylim=(0, 1.1 * numbers.max()))
plt.show()
