"""EEG windows with targets and subjects, simulated or from recordings."""

from braindecode_sam.datasets.arrays import SubjectWindows, to_arrays
from braindecode_sam.datasets.recordings import read_recordings
from braindecode_sam.datasets.scaling import SubjectScaler
from braindecode_sam.datasets.simulation import simulate_response_times
from braindecode_sam.datasets.windows import (
    response_time_windows,
    subject_target_windows,
)

__all__ = [
    "SubjectScaler",
    "SubjectWindows",
    "read_recordings",
    "response_time_windows",
    "simulate_response_times",
    "subject_target_windows",
    "to_arrays",
]
