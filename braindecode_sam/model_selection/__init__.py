"""Cross-validation by subject, out-of-fold predictions and Dask clusters."""

from braindecode_sam.model_selection._dask import on_dask
from braindecode_sam.model_selection._predictions import (
    check_disjoint,
    out_of_fold_predictions,
)
from braindecode_sam.model_selection._subjects import (
    SubjectSplit,
    subjects_of,
)

__all__ = [
    "SubjectSplit",
    "check_disjoint",
    "on_dask",
    "out_of_fold_predictions",
    "subjects_of",
]
