"""
Speeding up any model
=====================

``speed_up`` makes layers of a model faster on a CPU, in place: with the
same parameters, outputs and gradients, up to rounding. Models gain most if
they begin with a convolution over time and one over channels, which it
computes in the cheaper order. It takes braindecode models, trained or not,
and models of your own.
"""

import time

import matplotlib.pyplot as plt
import numpy as np
import torch
from braindecode.models import ATCNet, EEGInceptionERP, EEGNet

from braindecode_sam import SAM, make_classifier, speed_up, unspeed
from braindecode_sam.callbacks import SpeedUp

N_CHANS = 32
N_TIMES = 625
BATCH_SIZE = 16
N_STEPS = 5  # to time, of each kind

# %%
# A model of your own
# -------------------
# ``speed_up`` returns what got faster, and from which size of a batch on.
# ``input_shape`` is for modules that do not know it.

torch.manual_seed(0)
model = torch.nn.Sequential(
    torch.nn.Conv2d(1, 16, (1, 65), padding=(0, 32), bias=False),
    torch.nn.BatchNorm2d(16),
    torch.nn.Conv2d(16, 32, (N_CHANS, 1), groups=16, bias=False),
    torch.nn.BatchNorm2d(32),
    torch.nn.ELU(),
    torch.nn.AvgPool2d((1, 50)),
    torch.nn.Flatten(),
    torch.nn.Linear(32 * (N_TIMES // 50), 2),
)
x = torch.randn(BATCH_SIZE, 1, N_CHANS, N_TIMES)
y = torch.randint(2, (BATCH_SIZE,))


def gradient_of(model):
    """Return the gradient of a training step as one vector."""
    loss = torch.nn.functional.cross_entropy(model(x), y)
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    return torch.cat([gradient.flatten() for gradient in gradients])


before = gradient_of(model)
print(speed_up(model, input_shape=(1, 1, N_CHANS, N_TIMES)))
difference = (gradient_of(model) - before).norm() / before.norm()
print(f"relative difference of the gradients: {difference:.1e}")
print("as it was:", unspeed(model))

# %%
# Models of braindecode
# ---------------------
# EEGInceptionERP has an activation between its first layers. It gains less,
# by its long convolutions and by ELU. The kinds take turns, so that other
# work on the machine slows all of them. "speed-up" is the ratio of the
# medians of this run.

MODELS = {
    "EEGInceptionERP": EEGInceptionERP,
    "EEGNet": EEGNet,
    "ATCNet": ATCNet,
}
shape = {
    "n_chans": N_CHANS,
    "n_times": N_TIMES,
    "n_outputs": 2,
    "sfreq": 125,
}
OPTIMIZERS = {"AdamW": torch.optim.AdamW, "SAM": SAM}
steps = {}
for name, make in MODELS.items():
    for optimizer_name, make_optimizer in OPTIMIZERS.items():
        for kind in ("original", "fast"):
            model = make(**shape)
            if kind == "fast":
                speed_up(model)
            optimizer = make_optimizer(model.parameters(), lr=1e-3)

            def closure(model=model, optimizer=optimizer):
                """Make a pass."""
                optimizer.zero_grad()
                output = model(x[:, 0])
                loss = torch.nn.functional.cross_entropy(output, y)
                loss.backward()
                return loss

            key = name, optimizer_name, kind
            steps[key] = lambda o=optimizer, c=closure: o.step(c)
seconds = {key: [] for key in steps}
for _ in range(N_STEPS + 1):
    for key, step in steps.items():
        start = time.perf_counter()
        step()
        seconds[key].append(time.perf_counter() - start)
ms = {key: 1e3 * np.median(values[1:]) for key, values in seconds.items()}
for name in MODELS:
    for optimizer in OPTIMIZERS:
        slow, fast = (ms[name, optimizer, k] for k in ("original", "fast"))
        print(
            f"{name:>15}, {optimizer:>5}: {slow:6.1f} ms -> {fast:5.1f} ms,"
            f" speed-up {slow / fast:.1f}"
        )

# %%
# Bars on a logarithmic axis, so that equal distances are equal ratios.

figure, axes = plt.subplots(
    1, 2, figsize=(8, 3.2), layout="constrained", sharey=True, sharex=True
)
rows = np.arange(len(MODELS))
for ax, optimizer in zip(axes, OPTIMIZERS, strict=True):
    for shift, kind, color in (
        (-0.2, "original", "0.6"),
        (0.2, "fast", "C0"),
    ):
        widths = [ms[name, optimizer, kind] for name in MODELS]
        bars = ax.barh(rows + shift, widths, 0.4, color=color, label=kind)
        ax.bar_label(bars, fmt="%.0f", padding=2)
    ax.set(xscale="log", title=optimizer, xlabel="Step (ms)")
    ax.xaxis.set_minor_formatter(plt.NullFormatter())  # they overlap
    ax.margins(x=0.2)
axes[0].set_yticks(rows, MODELS)
axes[0].invert_yaxis()
axes[0].legend(frameon=False)
plt.show()

# %%
# In a net
# --------
# A net that builds its model by name takes a callback. For the models of
# braindecode that gain there is a fast version by name as well, such as
# ``module="FastATCNet"``.

net = make_classifier(
    module="ATCNet", module__sfreq=125, callbacks=[SpeedUp(verbose=True)],
    optimizer__rho=0.1, device="cpu", max_epochs=1, batch_size=BATCH_SIZE,
    verbose=0,
)  # fmt: skip
net = net.fit(x[:, 0].numpy(), np.where(y.numpy() == 0, "left", "right"))
