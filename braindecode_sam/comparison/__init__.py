"""Compare estimators on the same folds and seeds, subject by subject.

::

    for each seed, fold and estimator:
        fit a clone on the fold's training windows, predict its test windows
    for each estimator:
        average the loss over a subject's windows and the seeds
    for each estimator but the reference:
        d = losses of the subjects - the reference's
        interval of mean(d): bootstrap over subjects
        p-value: flip the signs of d
    correct the p-values for their number (Holm)
"""

from braindecode_sam.comparison._compare import compare
from braindecode_sam.comparison._comparison import Comparison
from braindecode_sam.comparison._statistics import PairedComparison, paired_comparison

__all__ = ["Comparison", "PairedComparison", "compare", "paired_comparison"]
