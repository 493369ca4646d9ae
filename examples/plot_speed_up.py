"""
Speeding up any model
=====================

Train several times faster on a CPU, with the same weights and outputs.

``speed_up`` makes layers of a model faster, in place: with the same
parameters, outputs and gradients, up to rounding. Models gain most if they
begin with a convolution over time and one over channels, which it computes
in the cheaper order. It takes braindecode models, trained or not, and
models of your own.
"""

import time

import matplotlib.pyplot as plt
import numpy as np
import torch
from braindecode.models import ATCNet, EEGInceptionERP, EEGNet, EEGNeX

from braindecode_sam import SAM, make_classifier, speed_up, unspeed
from braindecode_sam.callbacks import SpeedUp

N_CHANS = 32
N_TIMES = 625
BATCH_SIZE = 16
N_STEPS = 3  # to time, of each kind

# %%
# A model of your own
# -------------------
# ``speed_up`` returns what got faster, and from which size of a batch on.
# ``input_shape`` is for modules that do not know it. In float64, the
# gradients agree to many digits.

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
).double()
x = torch.randn(BATCH_SIZE, N_CHANS, N_TIMES)
y = torch.randint(2, (BATCH_SIZE,))


def gradient_of(model, x):
    """Return the gradient of a training step as one vector."""
    loss = torch.nn.functional.cross_entropy(model(x), y)
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    return torch.cat([gradient.flatten() for gradient in gradients])


windows = x[:, None].double()
before = gradient_of(model, windows)
print(speed_up(model, input_shape=(1, 1, N_CHANS, N_TIMES)))
difference = (gradient_of(model, windows) - before).norm() / before.norm()
print(f"relative difference of the gradients: {difference:.1e}")
print("as it was:", unspeed(model))

# %%
# Models of braindecode
# ---------------------
# EEGInceptionERP has an activation between its first layers. It gains less,
# by its long convolutions and by ELU. The kinds take turns, so that other
# work on the machine slows all of them. The speed-up is the ratio of the
# medians of this run.

MODELS = [EEGInceptionERP, EEGNet, ATCNet, EEGNeX]
OPTIMIZERS = {"AdamW": torch.optim.AdamW, "SAM": SAM}
shape = {
    "n_chans": N_CHANS,
    "n_times": N_TIMES,
    "n_outputs": 2,
    "sfreq": 125,
}


def make_step(model, optimizer):
    """Build a training step."""
    optimizer = optimizer(model.parameters(), lr=1e-3)

    def closure():
        """Make a pass."""
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        return loss

    return lambda: optimizer.step(closure)


steps = {}
for make in MODELS:
    for name, optimizer in OPTIMIZERS.items():
        for kind in ("original", "fast"):
            model = make(**shape)
            if kind == "fast":
                speed_up(model)
            steps[make.__name__, name, kind] = make_step(model, optimizer)
seconds = {key: [] for key in steps}
for _ in range(N_STEPS + 1):
    for key, step in steps.items():
        start = time.perf_counter()
        step()
        seconds[key].append(time.perf_counter() - start)
ms = {key: 1e3 * np.median(values[1:]) for key, values in seconds.items()}
print(f"threads: {torch.get_num_threads()}")
gains = {name: [] for name in OPTIMIZERS}
for make in MODELS:
    model = make.__name__
    for name in OPTIMIZERS:
        slow, fast = (ms[model, name, k] for k in ("original", "fast"))
        gains[name].append(slow / fast)
        print(
            f"{model:>15}, {name:>5}: {slow:6.1f} ms -> {fast:5.1f} ms,"
            f" speed-up {slow / fast:.1f}"
        )

# %%
# A step of SAM makes two passes, so it costs about twice a plain one. Where
# a model gets more than twice as fast, training it with SAM takes less time
# than training the original with AdamW.

figure, ax = plt.subplots(figsize=(7, 3.6), layout="constrained")
rows = np.arange(len(MODELS))
for shift, (name, color) in zip(
    (-0.2, 0.2), {"AdamW": "0.45", "SAM": "C0"}.items(), strict=True
):
    bars = ax.barh(rows + shift, gains[name], 0.4, color=color, label=name)
    ax.bar_label(bars, fmt="%.1f", padding=2)
ax.axvline(1, color="k", lw=0.8, ls=":")
ax.margins(x=0.12)
ax.set_yticks(rows, [make.__name__ for make in MODELS])
ax.invert_yaxis()
ax.set(xlabel="Speed-up of a training step")
ax.legend(frameon=False)
plt.show()

# %%
# In a net
# --------
# A net that builds its model by name takes a callback. For the models of
# braindecode that gain there is a fast version by name as well, such as
# ``module="FastEEGNet"``. Its weights load into the original, and the other
# way round.

net = make_classifier(
    module="EEGNet", callbacks=[SpeedUp(verbose=True)], device="cpu",
    max_epochs=1, batch_size=BATCH_SIZE, verbose=0,
)  # fmt: skip
net = net.fit(x.numpy(), np.where(y.numpy() == 0, "left", "right"))
