"""Models for braindecode: the exact, faster EEGNeX and EEGNet."""

from braindecode.models import util

from braindecode_sam.models.accelerate import accelerate
from braindecode_sam.models.fast import FastEEGNet, FastEEGNeX

__all__ = ["FastEEGNeX", "FastEEGNet", "accelerate"]

# braindecode fills its registry when a model is first asked for by its name, and only
# if it is empty.
util._get_model_class("EEGNeX")
util.models_dict |= {cls.__name__: cls for cls in (FastEEGNeX, FastEEGNet)}
