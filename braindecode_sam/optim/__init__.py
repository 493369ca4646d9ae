"""Sharpness-aware optimizers. They depend on torch alone."""

from braindecode_sam.optim.ae_sam import AESAM
from braindecode_sam.optim.friendly_sam import FriendlySAM
from braindecode_sam.optim.gsam import GSAM
from braindecode_sam.optim.look_sam import LookSAM
from braindecode_sam.optim.momentum_sam import MomentumSAM
from braindecode_sam.optim.sam import SAM
from braindecode_sam.optim.wsam import WSAM

__all__ = ["AESAM", "GSAM", "SAM", "WSAM", "FriendlySAM", "LookSAM", "MomentumSAM"]
