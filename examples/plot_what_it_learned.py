"""
What did the net learn?
=======================

Show the first layers of a net as topographies and frequency responses.

EEGNet-like models begin with a filter over time and weights for the
channels. Both are linear, so each output of this front *is* a pattern over
the scalp and a filter. :func:`~braindecode_sam.front.linear_front` reads
them from a fitted net, and its ``plot`` shows them: here of a net trained
with AdamW, and of one trained with SAM.
"""

import torch

from braindecode_sam import SAM, make_regressor
from braindecode_sam.datasets import simulate_response_times, to_arrays
from braindecode_sam.front import linear_front

N_SUBJECTS = 12
N_TRIALS = 20
N_EPOCHS = 20

epochs = simulate_response_times(
    N_SUBJECTS, N_TRIALS, n_chans=32, n_times=256, sfreq=128, random_state=0
)
X, seconds, subjects = to_arrays(epochs, target="response_time")

# %%
# Train both
# ----------
# The simulated response is largest over central and parietal channels.

fronts = {}
for name, optimizer in {"AdamW": torch.optim.AdamW, "SAM": SAM}.items():
    net = make_regressor(
        module="FastEEGNet", optimizer=optimizer, device="cpu",
        module__n_chans=32, module__n_times=256, max_epochs=N_EPOCHS,
        batch_size=16, random_state=0, verbose=0,
    )  # fmt: skip
    net.fit(X, seconds)
    fronts[name] = linear_front(net, X, sfreq=128)
    peak = fronts[name].freqs[fronts[name].gains.mean(axis=0).argmax()]
    print(
        f"{name}: {len(fronts[name].powers)} outputs, peak at {peak:.1f} Hz"
    )

# %%
# Patterns, not weights
# ---------------------
# The topographies are the weights times the covariance of the filtered
# windows. Weights themselves also suppress what other sources have in
# common with the one that they extract, and look different. The curves are
# the gain over frequency, with BatchNorm folded in. The outputs with the
# largest variance are shown.

for name, front in fronts.items():
    front.plot(epochs.info).suptitle(name)
