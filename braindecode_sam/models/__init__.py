"""Models for braindecode: the exact, faster EEGNeX and EEGNet, and a team's own two."""

from braindecode.models import util

from braindecode_sam.models.accelerate import accelerate
from braindecode_sam.models.compact_cnn import CompactCNN
from braindecode_sam.models.fast import FastEEGNet, FastEEGNeX
from braindecode_sam.models.separable_eegnet import SeparableEEGNet

MODELS = (FastEEGNeX, FastEEGNet, CompactCNN, SeparableEEGNet)
__all__ = ["CompactCNN", "FastEEGNeX", "FastEEGNet", "SeparableEEGNet", "accelerate"]

# braindecode fills its registry when a model is first asked for by its name, and only
# if it is empty.
util._get_model_class("EEGNeX")
util.models_dict |= {cls.__name__: cls for cls in MODELS}
