"""Compare estimators on the same folds and seeds, subject by subject.

::

    for each seed, fold and estimator:
        fit a clone on the training windows of the fold, and predict its test windows
    for each estimator:
        average the loss over the windows of each subject and over the seeds
    for each estimator except the reference:
        d = losses of the subjects - losses of the reference
        interval of mean(d): bootstrap over subjects
        p-value: permutation test that flips the signs of d
    correct the p-values for multiple comparisons (Holm)
"""

from braindecode_sam.comparison._compare import compare
from braindecode_sam.comparison._comparison import Comparison
from braindecode_sam.comparison._statistics import PairedComparison, paired_comparison

__all__ = ["Comparison", "PairedComparison", "compare", "paired_comparison"]
