"""Models for braindecode: the exact, faster EEGNeX and EEGNet, and two small CNNs."""

from braindecode_sam.models._registry import register
from braindecode_sam.models.accelerate import accelerate
from braindecode_sam.models.compact_cnn import CompactCNN
from braindecode_sam.models.fast import FastEEGNet, FastEEGNeX
from braindecode_sam.models.separable_eegnet import SeparableEEGNet

__all__ = ["CompactCNN", "FastEEGNeX", "FastEEGNet", "SeparableEEGNet", "accelerate"]

register((FastEEGNeX, FastEEGNet, CompactCNN, SeparableEEGNet))
