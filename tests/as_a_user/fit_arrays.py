"""Fit to arrays."""

import numpy as np

from braindecode_sam import make_regressor

rng = np.random.default_rng(0)
X = rng.normal(size=(24, 5, 200)).astype("float32")
y = rng.normal(size=24).astype("float32")
net = make_regressor(
    module__n_chans=5, module__n_times=200, batch_size=8, max_epochs=2, verbose=0
)
print(net.fit(X, y).predict(X).shape, len(net.history))

# Prints:
# (24,) 2
