"""Sharpness-Aware Minimization for EEG decoding.

Extends braindecode, skorch and scikit-learn: a SAM optimizer for ``EEGRegressor``,
its callback, and what a subject-wise cross-validated EEG regression needs around it.
"""

from braindecode_sam._version import __version__
from braindecode_sam.augmentation import TimeShift
from braindecode_sam.callbacks import SAMCallback
from braindecode_sam.configs import load_config
from braindecode_sam.device import resolve_device
from braindecode_sam.metrics import SCORING, normalized_root_mean_squared_error
from braindecode_sam.models import FastEEGNet, FastEEGNeX
from braindecode_sam.optim import SAM
from braindecode_sam.regressor import make_regressor

__all__ = [
    "SAM",
    "SCORING",
    "FastEEGNeX",
    "FastEEGNet",
    "SAMCallback",
    "TimeShift",
    "__version__",
    "load_config",
    "make_regressor",
    "normalized_root_mean_squared_error",
    "resolve_device",
]
