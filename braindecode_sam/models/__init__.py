"""Models for braindecode: faster versions of its models, and two small CNNs."""

from braindecode_sam.models._registry import register
from braindecode_sam.models.compact_cnn import CompactCNN
from braindecode_sam.models.fast import (
    FAST,
    FastATCNet,
    FastAttentionBaseNet,
    FastCTNet,
    FastEEGConformer,
    FastEEGITNet,
    FastEEGNet,
    FastEEGNeX,
    FastMSVTNet,
    FastTCFormer,
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
    "FastEEGNeX",
    "FastEEGNet",
    "FastMSVTNet",
    "FastTCFormer",
    "SeparableEEGNet",
    "speed_up",
    "unspeed",
]

register((*FAST, CompactCNN, SeparableEEGNet))
