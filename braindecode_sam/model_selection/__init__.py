"""Cross-validation by subject, out-of-fold predictions and Dask clusters."""

from braindecode_sam.model_selection._dask import on_dask
from braindecode_sam.model_selection._predictions import (
    check_disjoint,
    nrmse_table,
    out_of_fold_predictions,
)
from braindecode_sam.model_selection._recordings import Recordings, pool_by_recording
from braindecode_sam.model_selection._subjects import (
    PredefinedSubjectSplit,
    SubjectSplit,
    subjects_of,
)

__all__ = [
    "PredefinedSubjectSplit",
    "Recordings",
    "SubjectSplit",
    "check_disjoint",
    "nrmse_table",
    "on_dask",
    "out_of_fold_predictions",
    "pool_by_recording",
    "subjects_of",
]
