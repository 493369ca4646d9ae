"""Sharpness-aware optimizers. They know torch only."""

from braindecode_sam.optim.sam import SAM

__all__ = ["SAM"]
