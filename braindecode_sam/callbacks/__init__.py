"""skorch callbacks."""

from braindecode_sam.callbacks.averaging import WeightAveraging
from braindecode_sam.callbacks.checkpoint import ResumableCheckpoint
from braindecode_sam.callbacks.sam import SAMCallback
from braindecode_sam.callbacks.snapshots import WeightSnapshots
from braindecode_sam.callbacks.speed_up import SpeedUp
from braindecode_sam.callbacks.window_check import WindowCheck

__all__ = [
    "ResumableCheckpoint",
    "SAMCallback",
    "SpeedUp",
    "WeightAveraging",
    "WeightSnapshots",
    "WindowCheck",
]
