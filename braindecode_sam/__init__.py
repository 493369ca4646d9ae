"""Sharpness-Aware Minimization, exact CPU speed-ups and comparisons for braindecode.

``speed_up`` makes models faster on a CPU. ``SAM`` is an optimizer for
``EEGClassifier``, ``EEGRegressor`` and loops of torch. ``comparison.compare`` finds out
whether a choice helps on held-out subjects.
"""

import importlib
import warnings
from typing import TYPE_CHECKING, Any

from braindecode_sam._version import __version__

if TYPE_CHECKING:
    from braindecode_sam.configs import load_config
    from braindecode_sam.estimators import make_classifier, make_regressor

__all__ = [
    "SAM",
    "SCORING",
    "SCORING_CLASSIFICATION",
    "FastATCNet",
    "FastAttentionBaseNet",
    "FastCTNet",
    "FastEEGConformer",
    "FastEEGITNet",
    "FastEEGNeX",
    "FastEEGNet",
    "FastMSVTNet",
    "FastTCFormer",
    "SAMCallback",
    "TimeShift",
    "__version__",
    "load_config",
    "make_classifier",
    "make_regressor",
    "normalized_root_mean_squared_error",
    "resolve_device",
    "share_cores",
    "speed_up",
    "unspeed",
]

# Configurations are slow to import, and most scripts do not use them.
_LAZY = {
    "load_config": "braindecode_sam.configs",
    "make_classifier": "braindecode_sam.estimators",
    "make_regressor": "braindecode_sam.estimators",
}
_import_error: Exception | None = None

try:
    with warnings.catch_warnings():
        # Of braindecode's use of MNE, until its next release:
        # https://github.com/braindecode/braindecode/pull/1164
        warnings.filterwarnings("ignore", "Montage name 'standard_1020'", FutureWarning)
        from braindecode_sam.augmentation import TimeShift
        from braindecode_sam.callbacks import SAMCallback
        from braindecode_sam.device import resolve_device
        from braindecode_sam.metrics import (
            SCORING,
            SCORING_CLASSIFICATION,
            normalized_root_mean_squared_error,
        )
        from braindecode_sam.models import (
            FastATCNet,
            FastAttentionBaseNet,
            FastCTNet,
            FastEEGConformer,
            FastEEGITNet,
            FastEEGNet,
            FastEEGNeX,
            FastMSVTNet,
            FastTCFormer,
            speed_up,
            unspeed,
        )
        from braindecode_sam.optim import SAM
        from braindecode_sam.threads import share_cores
except (ImportError, OSError, RuntimeError, AttributeError) as _error:
    # Deferred until a name is accessed, so that ``python -m braindecode_sam`` can
    # explain the error.
    _import_error = _error


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if _import_error is not None:
        from braindecode_sam._installation import explain

        raise ImportError(explain(_import_error)) from _import_error
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
