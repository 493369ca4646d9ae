"""Sharpness-Aware Minimization for EEG decoding."""

from braindecode_sam.optim import SAM

__all__ = ["SAM"]
