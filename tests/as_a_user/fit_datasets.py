"""A windows dataset with numeric targets, and MNE's Epochs."""

import numpy as np
from braindecode.datasets import create_from_X_y

from braindecode_sam import make_regressor
from braindecode_sam.datasets import simulate_response_times, to_arrays

epochs = simulate_response_times(4, 8, n_chans=5, n_times=200, random_state=0)
times = epochs.metadata["response_time"].to_numpy()
X, y, groups = to_arrays(epochs, target="response_time")
windows = create_from_X_y(
    X, [float(t) for t in y], sfreq=100, window_size_samples=200,
    window_stride_samples=200, drop_last_window=False,
)  # fmt: skip


def net():
    return make_regressor(
        module__n_chans=5, module__n_times=200, batch_size=8, max_epochs=2, verbose=0,
        random_state=0, n_threads=1,
    )  # fmt: skip


of_arrays = net().fit(X, y)
of_windows = net().fit(windows, y=None)
of_epochs = net().fit(epochs, times)
for other in (of_windows, of_epochs):
    losses = of_arrays.history[:, "train_loss"], other.history[:, "train_loss"]
    print(np.allclose(*losses, rtol=1e-4))
print(len(set(groups)))

# Prints:
# True
# True
# 4
