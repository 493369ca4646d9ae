"""Mistakes give clear messages."""

import numpy as np

from braindecode_sam import SAM, make_regressor
from braindecode_sam.datasets import SubjectScaler, read_recordings

rng = np.random.default_rng(0)
X = rng.normal(size=(24, 5, 200)).astype("float32")
y = rng.normal(size=24).astype("float32")
SMALL = {"module__n_chans": 5, "module__n_times": 200, "max_epochs": 1, "verbose": 0}


def small(**options):
    return make_regressor(**(SMALL | {"batch_size": 4} | options))


for attempt in (
    lambda: small(optimizer__roh=0.1).initialize(),
    lambda: small(batch_size=99).fit(X, y),
    lambda: small().fit(X[:, :4], y),
    lambda: make_regressor({"criterion": "os.system"}),
    lambda: make_regressor("challenge_9"),
    lambda: read_recordings("there/is/none.edf"),
    lambda: SubjectScaler().fit_transform(X[:2], groups=["a", 1.0]),
    lambda: SAM([]),
):
    try:
        attempt()
    except (TypeError, ValueError) as error:
        print(str(error).replace("\n", " "))
small().fit(1e-6 * X, y)

# Prints:
# *unexpected keyword argument 'roh'
# The net trains on 24 windows, fewer than batch_size=99, and drops the last*
# The data have n_chans=4, but the net is configured for module__n_chans=5*
# * validation errors for TrainingConfig*
# config must be one of challenge_1, challenge_2, classification, the path of a *
# cannot read there/is/none.edf:*
# groups must have the shape (n_windows,) and be all text or all numbers, got 1.0*
# params must hold at least one tensor, got none*
# Warns:
# *The training set has 24 example(s)*
# *X has a standard deviation of * over time, like EEG in volts*
