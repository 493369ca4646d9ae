"""Sharpness-Aware Minimization for EEG decoding.

Extends braindecode, skorch and scikit-learn: a SAM optimizer for ``EEGRegressor``,
its callback, and what a subject-wise cross-validated EEG regression needs around it.
"""

from braindecode_sam._version import __version__

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

try:
    from braindecode_sam.augmentation import TimeShift
    from braindecode_sam.callbacks import SAMCallback
    from braindecode_sam.configs import load_config
    from braindecode_sam.device import resolve_device
    from braindecode_sam.estimators import make_regressor
    from braindecode_sam.metrics import SCORING, normalized_root_mean_squared_error
    from braindecode_sam.models import FastEEGNet, FastEEGNeX
    from braindecode_sam.optim import SAM
except (ImportError, OSError, RuntimeError, AttributeError) as _error:
    from braindecode_sam import installation as _installation

    _problem = _error

    # The error waits for the first name that is asked for, so that
    # ``python -m braindecode_sam`` can tell what is wrong.
    def __getattr__(name):
        if name in __all__:
            raise ImportError(_installation.explain(_problem)) from _problem
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
