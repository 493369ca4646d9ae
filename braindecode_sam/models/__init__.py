"""Models for braindecode: faster versions of its models, and two small CNNs."""

from braindecode.models import util as _util

from braindecode_sam.models.compact_cnn import CompactCNN
from braindecode_sam.models.fast import (
    FAST,
    FastATCNet,
    FastAttentionBaseNet,
    FastCTNet,
    FastEEGConformer,
    FastEEGInceptionERP,
    FastEEGInceptionMI,
    FastEEGITNet,
    FastEEGNet,
    FastEEGNeX,
    FastEEGTCNet,
    FastEMG2QwertyNet,
    FastFBMSNet,
    FastIFNet,
    FastMSVTNet,
    FastSleepStagerChambon2018,
    FastSPARCNet,
    FastTCFormer,
    FastTIDNet,
    FastTSception,
)
from braindecode_sam.models.separable_eegnet import SeparableEEGNet
from braindecode_sam.models.speed_up import speed_up, unspeed

__all__ = [
    "CompactCNN",
    "FastATCNet",
    "FastAttentionBaseNet",
    "FastCTNet",
    "FastEEGConformer",
    "FastEEGITNet",
    "FastEEGInceptionERP",
    "FastEEGInceptionMI",
    "FastEEGNeX",
    "FastEEGNet",
    "FastEEGTCNet",
    "FastEMG2QwertyNet",
    "FastFBMSNet",
    "FastIFNet",
    "FastMSVTNet",
    "FastSPARCNet",
    "FastSleepStagerChambon2018",
    "FastTCFormer",
    "FastTIDNet",
    "FastTSception",
    "SeparableEEGNet",
    "speed_up",
    "unspeed",
]

# For ``EEGRegressor("FastEEGNeX")``. braindecode fills its registry on the first
# look-up by name, if it is empty.
if not _util.models_dict:
    _util._init_models_dict()
_util.models_dict.update(
    {model.__name__: model for model in (*FAST, CompactCNN, SeparableEEGNet)}
)
