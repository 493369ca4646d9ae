"""Paired statistics over subjects."""

from __future__ import annotations

import dataclasses
import reprlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats

from braindecode_sam._arguments import check_choice, check_number
from braindecode_sam._checks import (
    are_probabilities,
    as_columns,
    check_groups,
    check_same_length,
    check_targets_or_labels,
)

Floats = NDArray[np.float64]
Loss = str | Callable[[Any, Any], Any]

N_RESAMPLES = 9999
ALPHA = 0.05  # level of the tests
POWER = 0.8


@dataclasses.dataclass(frozen=True, eq=False)
class PairedComparison:
    """Result of :func:`paired_comparison`.

    Attributes
    ----------
    difference : float
        Mean over subjects of the loss of the first predictions minus that of the
        second. Negative if the first are better.
    ci_low, ci_high : float
        Bootstrap interval of `difference` over subjects.
    p_value : float
        p-value of the two-sided sign-flip permutation test over subjects.
    n_better : int
        Number of subjects with a lower loss for the first predictions.
    n_subjects : int
        Number of subjects.
    smallest_detectable : float
        Absolute difference that a test at level `alpha` has 80 % power to detect,
        given the spread of the subjects' differences. Infinite if there are too few
        subjects for any difference to be significant.
    alpha : float
        Level of the test for `smallest_detectable`.
    subjects : ndarray of shape (n_subjects,)
        Sorted subjects.
    losses_a, losses_b : ndarray of shape (n_subjects,)
        Mean loss of each subject.
    """

    difference: float
    ci_low: float
    ci_high: float
    p_value: float
    n_better: int
    n_subjects: int
    smallest_detectable: float
    alpha: float
    subjects: NDArray[Any] = dataclasses.field(repr=False)
    losses_a: Floats = dataclasses.field(repr=False)
    losses_b: Floats = dataclasses.field(repr=False)


def paired_comparison(
    a: Any,
    b: Any,
    y: ArrayLike,
    groups: ArrayLike,
    *,
    loss: Loss | None = None,
    confidence: float = 0.95,
    alpha: float = ALPHA,
    random_state: int = 0,
) -> PairedComparison:
    r"""Compare two sets of predictions, paired by subject.

    The loss is averaged over the windows of each subject and over the seeds, which
    gives a pair of losses for each subject. Subjects are the unit of the statistics,
    since windows of the same subject are not independent.

    Parameters
    ----------
    a, b : array-like, or list of array-like
        Out-of-fold predictions with the shape of `y`. For classification,
        probabilities of shape (n_windows, n_classes) in the order of ``np.unique(y)``.
        With an explicit `loss`, the probability of the second of two labels suffices. A
        list or tuple, or an array with one more axis, holds predictions of several
        seeds. Windows that are nan in both are excluded.
    y : array-like of shape (n_windows,) or (n_windows, n_outputs)
        Targets or labels.
    groups : array-like of shape (n_windows,)
        Subject of each window.
    loss : str or callable, optional
        For regression, "nmse" (default), "squared_error" or "absolute_error". "nmse" is
        the squared error over the variance of `y`, so that the mean predictor scores
        about 1. For classification, "log_loss" (default) or "zero_one". A callable
        takes ``(y, y_pred)`` and returns an array of shape (n_windows,).
    confidence : float, default=0.95
        Confidence level of the bootstrap interval.
    alpha : float, default=0.05
        Level of the test for `smallest_detectable`. Divide it by the number of
        comparisons for which you correct.
    random_state : int, default=0
        Seed of the bootstrap and the permutations.

    Returns
    -------
    comparison : PairedComparison
        Difference, interval, p-value and smallest detectable difference.

    Raises
    ------
    ValueError
        If shapes differ, there are fewer than two subjects, `a` and `b` hold
        predictions of different windows, or the loss is unknown. Also if `loss` is None
        where the predictions could be values or probabilities: a single column, and a
        `y` of two values.

    See Also
    --------
    compare : Fit estimators and compare them.

    Notes
    -----
    The interval is a percentile bootstrap (:func:`scipy.stats.bootstrap`). The test is
    :func:`scipy.stats.permutation_test` with ``permutation_type="samples"``, exact for
    up to 13 subjects and otherwise with 9999 random sign flips. Its smallest p-value is
    :math:`2 / 2^n` for n subjects, so at least 6 subjects are needed for p below 0.05.
    The smallest detectable difference is that of a paired t-test [1]_.

    References
    ----------
    .. [1] Cohen (1988). Statistical Power Analysis for the Behavioral Sciences.
       Routledge. https://doi.org/10.4324/9780203771587

    Examples
    --------
    >>> import numpy as np
    >>> from braindecode_sam.comparison import paired_comparison
    >>> rng = np.random.default_rng(0)
    >>> y, groups = rng.normal(size=80), np.repeat(np.arange(8), 10)
    >>> a, b = y + 0.1 * rng.normal(size=80), y + 0.3 * rng.normal(size=80)
    >>> found = paired_comparison(a, b, y, groups)
    >>> found.n_better, found.ci_high < 0, round(found.p_value, 4)
    (8, True, 0.0078)
    """
    check_same_length(y=y, groups=groups)
    groups = check_groups(groups)
    y = check_targets_or_labels(y)
    both = [
        np.stack([_shaped(name, one, y) for one in _seeds(predicted)])
        for name, predicted in (("a", a), ("b", b))
    ]
    one_column = y.ndim == 1 and any(p.shape[-1] == 1 for p in both)
    if loss is None and one_column and len(np.unique(y)) == 2:
        raise ValueError(
            f"y holds two values, {np.unique(y).tolist()}, so a and b may be values or"
            " probabilities of the second; expected loss='nmse' or loss='log_loss', or"
            " a column of probabilities for each label, got loss=None"
        )
    rows, rows_of_b = (np.asarray(~np.isnan(p).all(axis=(0, 2))) for p in both)
    if not np.array_equal(rows, rows_of_b):
        row = int(np.flatnonzero(rows != rows_of_b)[0])
        raise ValueError(
            "a and b must hold predictions of the same windows, but only one of them"
            f" predicts window {row}; use the same folds"
        )
    losses_a, losses_b = (
        subject_means(window_losses(y, p, rows, loss), groups[rows]) for p in both
    )
    subjects = np.unique(groups[rows])
    return compare_losses(losses_a, losses_b, subjects, confidence, alpha, random_state)


def compare_losses(
    losses_a: Floats,
    losses_b: Floats,
    subjects: NDArray[Any],
    confidence: float,
    alpha: float,
    random_state: int,
) -> PairedComparison:
    """Compare two losses of each subject."""
    for name, value in (("confidence", confidence), ("alpha", alpha)):
        check_number(name, value)
        if not 0 < value < 1:
            raise ValueError(f"{name} must be between 0 and 1, got {value!r}")
    check_subjects(subjects)
    d = losses_a - losses_b
    low, high = bootstrap_interval(d, confidence, random_state)
    p_value = float("nan")
    if np.isfinite(d).all():
        test = stats.permutation_test(
            (d,), np.mean, permutation_type="samples", n_resamples=N_RESAMPLES,
            rng=np.random.default_rng(random_state), vectorized=True,
        )  # fmt: skip
        p_value = float(test.pvalue)
    return PairedComparison(
        difference=float(d.mean()),
        ci_low=low,
        ci_high=high,
        p_value=p_value,
        n_better=int((d < 0).sum()),
        n_subjects=len(d),
        smallest_detectable=smallest_detectable(d, alpha),
        alpha=alpha,
        subjects=subjects,
        losses_a=losses_a,
        losses_b=losses_b,
    )


def check_subjects(subjects: NDArray[Any]) -> None:
    """Raise for fewer than two subjects."""
    if len(subjects) < 2:
        raise ValueError(
            "a comparison needs at least 2 subjects in the test folds, got"
            f" {len(subjects)}: {subjects.tolist()}"
        )


def smallest_p_value(n_subjects: int) -> float:
    """Return the smallest p-value of a two-sided sign-flip test."""
    return float(max(2 / 2**n_subjects, 1 / (N_RESAMPLES + 1)))


def bootstrap_interval(
    values: Floats, confidence: float = 0.95, random_state: int = 0
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of the mean over subjects."""
    if not np.isfinite(values).all():
        return float("nan"), float("nan")
    found = stats.bootstrap(
        (values,), np.mean, confidence_level=confidence, method="percentile",
        n_resamples=N_RESAMPLES, rng=np.random.default_rng(random_state),
    )  # fmt: skip
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def smallest_detectable(differences: Floats, alpha: float) -> float:
    """Return the mean difference that a paired t-test has 80 % power to detect.

    Only the spread of the differences is used. Infinite if a sign-flip test with so few
    subjects cannot reach the level `alpha`.
    """
    n = len(differences)
    if smallest_p_value(n) > alpha:
        return float("inf")
    error = float(np.std(differences, ddof=1)) / np.sqrt(n)
    if not np.isfinite(error):
        return float("nan")
    critical = stats.t.ppf(1 - alpha / 2, n - 1)
    # The other tail contributes less than any digit that is shown.
    shift = optimize.brentq(
        lambda t: stats.nct.sf(critical, n - 1, t) - POWER, 0, 10 * critical + 10
    )
    return float(shift) * error


def holm(p_values: ArrayLike) -> Floats:
    """Correct p-values by Holm's method, without those that are nan."""
    p = np.asarray(p_values, dtype=float)
    corrected = np.full(p.shape, np.nan)
    order = np.argsort(p)[: np.isfinite(p).sum()]  # nan sorts last
    steps = (len(order) - np.arange(len(order))) * p[order]
    corrected[order] = np.maximum.accumulate(steps).clip(max=1)
    return corrected


def subject_means(values: Floats, groups: NDArray[Any]) -> Floats:
    """Average over the windows of each subject, in sorted order of subjects."""
    _, index = np.unique(groups, return_inverse=True)
    return np.bincount(index, weights=values) / np.bincount(index)


def window_losses(
    y: NDArray[Any], y_pred: Floats, rows: NDArray[np.bool_], loss: Loss | None = None
) -> Floats:
    """Compute the loss of each predicted window, averaged over the seeds.

    `y_pred` are values or probabilities of shape (n_seeds, n_windows, n_columns), and
    `rows` a mask of the predicted windows.
    """
    if callable(loss):
        y, y_pred = y[rows], y_pred[:, rows]
        is_flat = y.ndim == 1 and y_pred.shape[-1] == 1
        of_seeds = [np.asarray(loss(y, p[:, 0] if is_flat else p)) for p in y_pred]
        if of_seeds[0].shape != (len(y),):
            raise ValueError(
                f"loss must return an array of shape ({len(y)},), one loss for each"
                f" window, got the shape {of_seeds[0].shape}"
            )
        return np.mean(of_seeds, axis=0)
    name = name_of_loss(loss, y, y_pred.shape[-1])
    if name in _CLASSIFICATION:
        target, y_pred = _encoded(y, y_pred)
    else:
        target = as_columns("y", y)
    function = (_REGRESSION | _CLASSIFICATION)[name]
    return np.mean([function(target[rows], p) for p in y_pred[:, rows]], axis=0)


def name_of_loss(loss: Loss | None, y: NDArray[Any], n_columns: int) -> str:
    """Return the name of a loss, by default that for these predictions."""
    if callable(loss):
        return getattr(loss, "__name__", type(loss).__name__)
    is_labels = y.ndim == 1 and (y.dtype.kind not in "iuf" or n_columns > 1)
    accepted = [] if is_labels else list(_REGRESSION)
    accepted += [] if y.ndim == 2 else list(_CLASSIFICATION)
    if loss is not None:
        check_choice("loss", loss, accepted)
    return loss or accepted[0]


def label_of(name: str) -> str:
    """Return the name of a loss as figures and tables show it."""
    labels = {
        "nmse": "normalized squared error", "squared_error": "squared error",
        "absolute_error": "absolute error", "log_loss": "log loss",
        "zero_one": "error rate",
    }  # fmt: skip
    return labels.get(name, name)


def _encoded(y: NDArray[Any], y_pred: Floats) -> tuple[NDArray[Any], Floats]:
    """Return the index of each label, and one column of probabilities per class."""
    classes, codes = np.unique(y, return_inverse=True)
    if y_pred.shape[-1] == 1 and len(classes) == 2:
        y_pred = np.concatenate([1 - y_pred, y_pred], axis=-1)
    if len(classes) != y_pred.shape[-1]:
        raise ValueError(
            f"predictions must have a column for each of the {len(classes)} labels"
            f" {reprlib.repr(classes.tolist())}, got {y_pred.shape[-1]} columns"
        )
    if not are_probabilities(y_pred):
        raise ValueError(
            "predictions of labels must be probabilities, which sum to 1 for each"
            f" window, got the sums {y_pred.sum(axis=-1).ravel()[:3]}"
        )
    return codes, y_pred


def _log_loss(codes: NDArray[np.int64], y_pred: Floats) -> Floats:
    chosen = np.take_along_axis(y_pred, codes[:, None], axis=1)[:, 0]
    # Clipped as in scikit-learn, for float32.
    return -np.log(chosen.clip(np.finfo(np.float32).eps))


def _zero_one(codes: NDArray[np.int64], y_pred: Floats) -> Floats:
    wrong = y_pred.argmax(axis=1) != codes
    return np.where(np.isfinite(y_pred).all(axis=1), wrong, np.nan)


_Losses = dict[str, Callable[[Any, Any], Floats]]
_REGRESSION: _Losses = {
    "nmse": lambda y, y_pred: ((y - y_pred) ** 2 / y.var(axis=0)).mean(axis=1),
    "squared_error": lambda y, y_pred: ((y - y_pred) ** 2).mean(axis=1),
    "absolute_error": lambda y, y_pred: np.abs(y - y_pred).mean(axis=1),
}
_CLASSIFICATION: _Losses = {"log_loss": _log_loss, "zero_one": _zero_one}


def _seeds(predictions: Any) -> list[Any]:
    is_several = isinstance(predictions, (list, tuple)) and np.ndim(predictions[0]) > 0
    is_stack = isinstance(predictions, np.ndarray) and predictions.ndim == 3
    return list(predictions) if is_several or is_stack else [predictions]


def _shaped(name: str, predicted: ArrayLike, y: NDArray[Any]) -> Floats:
    columns = as_columns(name, predicted)
    if len(columns) != len(y) or (y.ndim == 2 and columns.shape != y.shape):
        raise ValueError(
            f"{name} must have a prediction for each target of shape"
            f" {y.shape}, got the shape {np.shape(predicted)}"
        )
    return columns
