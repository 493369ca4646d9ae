"""Scores for regression and classification on EEG.

Two different scores are called NRMSE. The 2025 competition divides the root mean
squared error by the standard deviation of the targets, so that predicting their mean
scores 1. Others divide by the range of the targets, which gives a far smaller number
for the same predictions. The two cannot be compared. State which one you report.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import pearsonr
from sklearn.metrics import (
    log_loss,
    make_scorer,
    recall_score,
    roc_auc_score,
    root_mean_squared_error,
)
from sklearn.utils import check_array

from braindecode_sam._arguments import check_choice
from braindecode_sam._checks import are_constant, as_columns

SPREADS: dict[str, Any] = {"std": np.std, "range": np.ptp}


def normalized_root_mean_squared_error(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    normalization: str = "std",
    multioutput: str = "uniform_average",
) -> float | NDArray[np.float64]:
    r"""Compute the root mean squared error over the spread of the targets.

    .. math:: \frac{1}{s(y)} \sqrt{\frac{1}{n} \sum_i (y_i - {\hat{y}{}}_i)^2}

    Parameters
    ----------
    y_true : array-like of shape (n_samples,) or (n_samples, n_outputs)
        Targets.
    y_pred : array-like of shape (n_samples,) or (n_samples, n_outputs)
        Predictions. For a single output, one of `y_true` and `y_pred` may be flat and
        the other a column.
    normalization : {"std", "range"}, default="std"
        Divide by s(y), the population standard deviation of `y_true` or its range.
    multioutput : {"uniform_average", "raw_values"}, default="uniform_average"
        Mean over the outputs, or one score for each.

    Returns
    -------
    error : float or ndarray of shape (n_outputs,)
        Non-negative; lower is better. With "std", predicting the mean of `y_true`
        scores 1.

    Raises
    ------
    ValueError
        If an output is constant in `y_true`, shapes differ, a value is not finite,
        or an option is unknown.

    Examples
    --------
    >>> from braindecode_sam import normalized_root_mean_squared_error
    >>> y_true, y_pred = [0.0, 4.0], [1.0, 3.0]
    >>> normalized_root_mean_squared_error(y_true, y_pred)
    0.5
    >>> normalized_root_mean_squared_error(y_true, y_pred, normalization="range")
    0.25
    """
    check_choice("normalization", normalization, SPREADS)
    check_choice("multioutput", multioutput, ("uniform_average", "raw_values"))
    true, pred = _columns_of_both(y_true, y_pred)
    constant = np.flatnonzero(are_constant(true))
    if len(constant):
        raise ValueError(
            f"y_true is constant (output {constant[0]}, value"
            f" {true[0, constant[0]]}), so its {normalization} is 0 and the"
            " normalized error is undefined; expected targets that vary"
        )
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        spread = SPREADS[normalization](true, axis=0)
        error = root_mean_squared_error(true, pred, multioutput="raw_values")
        error = error / spread
    if not np.isfinite(error).all():
        raise ValueError(
            "the error or the spread of y_true overflows or underflows float64;"
            f" rescale the targets, got y_true[0]={true[0]} and y_pred[0]={pred[0]}"
        )
    return error if multioutput == "raw_values" else float(error.mean())


def _pearson_correlation(y_true: ArrayLike, y_pred: ArrayLike) -> float:
    true, pred = _columns_of_both(y_true, y_pred)
    if are_constant(true).any() or are_constant(pred).any():
        return float("nan")  # without SciPy's warning for every fold
    pairs = zip(true.T, pred.T, strict=True)
    return float(np.mean([pearsonr(*pair).statistic for pair in pairs]))


SCORING = {
    "neg_nrmse": make_scorer(
        normalized_root_mean_squared_error, greater_is_better=False
    ),
    "neg_nrmse_range": make_scorer(
        normalized_root_mean_squared_error,
        greater_is_better=False,
        normalization="range",
    ),
    "r2": "r2",
    "pearsonr": make_scorer(_pearson_correlation),
}
"""Scorers for ``cross_validate(scoring=SCORING)``.

As in scikit-learn, the names of errors begin with ``neg_`` and the errors are negated,
so that greater is better.

- ``neg_nrmse``: NRMSE by standard deviation; the mean predictor scores about -1.
- ``neg_nrmse_range``: NRMSE by range.
- ``r2``: coefficient of determination.
- ``pearsonr``: Pearson's correlation coefficient, averaged over the outputs. nan if an
  output is constant in the targets or the predictions, as that of the mean predictor.
"""


def _mean_recall(y_true: ArrayLike, y_pred: ArrayLike) -> float:
    # Unlike balanced_accuracy_score, without a warning if the fold lacks a class.
    labels = np.unique(y_true)
    return float(recall_score(y_true, y_pred, labels=labels, average="macro"))


def _neg_log_loss(estimator: Any, X: Any, y: ArrayLike) -> float:
    y, probabilities = _labels_and_probabilities("neg_log_loss", estimator, X, y)
    return -float(log_loss(y, probabilities, labels=estimator.classes_))


def _roc_auc(estimator: Any, X: Any, y: ArrayLike) -> float:
    y, probabilities = _labels_and_probabilities("roc_auc", estimator, X, y)
    classes = estimator.classes_
    if len(classes) < 2 or len(np.unique(y)) < len(classes):
        return float("nan")
    if len(classes) == 2:
        return float(roc_auc_score(y == classes[1], probabilities[:, 1]))
    areas = [
        roc_auc_score(y == label, column)
        for label, column in zip(classes, probabilities.T, strict=True)
    ]
    return float(np.mean(areas))


def _labels_and_probabilities(
    name: str, estimator: Any, X: Any, y: ArrayLike
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Check the estimator and the labels, and predict probabilities."""
    for wanted in ("predict_proba", "classes_"):
        if not hasattr(estimator, wanted):
            raise TypeError(
                f"{name} needs a classifier with predict_proba and classes_, got"
                f" {estimator!r}, which has no {wanted}"
            )
    y, known = np.asarray(y), np.asarray(estimator.classes_).tolist()
    unknown = [label for label in np.unique(y).tolist() if label not in known]
    if unknown:
        raise ValueError(
            f"{name} is undefined for the label {unknown[0]!r}: the classifier was"
            f" fitted to {known} only. Pass all labels as classes=[...] to a net, or"
            " use a stratified splitter."
        )
    return y, estimator.predict_proba(X)


SCORING_CLASSIFICATION = {
    "balanced_accuracy": make_scorer(_mean_recall),
    "neg_log_loss": _neg_log_loss,
    "roc_auc": _roc_auc,
}
"""Scorers for ``cross_validate(scoring=SCORING_CLASSIFICATION)``.

They accept any classifier with ``predict_proba``, and labels of any kind.

- ``balanced_accuracy``: recall, averaged over the classes in the fold.
- ``neg_log_loss``: logarithm of the probability of the true class, averaged over the
  windows. A fold may lack classes.
- ``roc_auc``: area under the ROC curve. With more than two classes, the average of each
  class against the rest. nan if the fold lacks a class.
"""


def _columns_of_both(y_true: ArrayLike, y_pred: ArrayLike) -> list[NDArray[np.float64]]:
    with np.errstate(invalid="ignore"):  # check_array names signaling NaNs itself
        true, pred = (
            check_array(as_columns(name, y), input_name=name)
            for name, y in {"y_true": y_true, "y_pred": y_pred}.items()
        )
    if true.shape != pred.shape:
        raise ValueError(
            f"y_true and y_pred must have the same shape, got {true.shape} and"
            f" {pred.shape}"
        )
    return [true, pred]
