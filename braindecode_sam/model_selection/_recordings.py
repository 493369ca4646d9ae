"""Predictions averaged over the windows of each recording."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from braindecode_sam.checks import (
    as_columns,
    as_names,
    as_numbers_or_labels,
    check_finite_columns,
    check_same_length,
    has_text,
)


def pool_by_recording(
    y_true: ArrayLike, y_pred: ArrayLike, recordings: ArrayLike
) -> tuple[NDArray[Any], NDArray[np.float64], NDArray[Any]]:
    """Average the predictions over the windows of each recording.

    If a target belongs to a recording, such as the age of a subject, its windows are
    not independent samples. Score the mean of their predictions instead.

    Parameters
    ----------
    y_true : array-like of shape (n_windows,) or (n_windows, n_outputs)
        Targets, numbers or text labels, equal in all windows of a recording.
    y_pred : array-like of shape (n_windows,) or (n_windows, n_outputs)
        Predicted values or probabilities.
    recordings : array-like of shape (n_windows,)
        Recording of each window, as text or numbers. Pass the subject if each has one
        recording, or the column ``path`` of a windows dataset's ``get_metadata()``.
        Names must be unique across subjects.

    Returns
    -------
    y_true : ndarray of shape (n_recordings,) or (n_recordings, n_outputs)
        Target of each recording.
    y_pred : ndarray of shape (n_recordings,) or (n_recordings, n_outputs), float64
        Mean prediction over the windows of each recording.
    names : ndarray of shape (n_recordings,)
        Recordings in the order of the other results, sorted as by
        :func:`numpy.unique`.

    Raises
    ------
    ValueError
        If lengths differ, the target of a recording varies, or a target or a prediction
        is missing or not finite. Windows in no test fold have no prediction. Exclude
        them from all three arguments, as in the example.

    See Also
    --------
    out_of_fold_predictions : Predict each window with the estimator of its fold.

    Examples
    --------
    Each subject has one recording, and two subjects are tested:

    >>> import numpy as np
    >>> from braindecode_sam.model_selection import (
    ...     PredefinedSubjectSplit, out_of_fold_predictions, pool_by_recording)
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.metrics import accuracy_score
    >>> from sklearn.model_selection import cross_validate
    >>> subjects = np.repeat(["a", "b", "c", "d"], 3)
    >>> y = np.repeat(["ill", "well", "ill", "well"], 3)
    >>> X = np.array([1, 2, 9, 8, 7, 2, 1, 2, 1, 8, 9, 8]).reshape(12, 1)
    >>> results = cross_validate(
    ...     LogisticRegression(), X, y, groups=subjects,
    ...     cv=PredefinedSubjectSplit(["a", "b"]), return_estimator=True,
    ...     return_indices=True)
    >>> y_pred = out_of_fold_predictions(results, X, method="predict_proba")
    >>> tested = np.concatenate(results["indices"]["test"])
    >>> true, pooled, names = pool_by_recording(
    ...     y[tested], y_pred[tested], subjects[tested])
    >>> names.tolist(), true.tolist(), pooled.round(1).tolist()
    (['a', 'b'], ['ill', 'well'], [[0.6, 0.4], [0.4, 0.6]])
    >>> classes = results["estimator"][0].classes_
    >>> accuracy_score(true, classes[pooled.argmax(axis=1)])
    1.0

    For regression, pool the predicted values and compute ``r2_score(true, pooled)``.
    """
    check_same_length(y_true=y_true, y_pred=y_pred, recordings=recordings)
    true, predicted = _targets_to_pool(y_true), _predictions_to_pool(y_pred)
    pooled = Recordings(recordings)
    row = pooled.first_that_varies(true)
    if row is not None:
        one, other = true[pooled.first[pooled.index[row]]], true[row]
        raise ValueError(
            "y_true must be equal in all windows of a recording, got"
            f" {one.tolist()!r} and {other.tolist()!r} in {pooled.name_of(row)!r}"
        )
    return true[pooled.first], pooled.mean(predicted), pooled.names


class Recordings:
    """Windows grouped by recording.

    Parameters
    ----------
    recordings : array-like of shape (n_windows,)
        Recording of each window.

    Attributes
    ----------
    names : ndarray of shape (n_recordings,)
        Sorted names of the recordings.
    first : ndarray of int of shape (n_recordings,)
        Index of the first window of each recording.
    index : ndarray of int of shape (n_windows,)
        Index in `names` of the recording of each window.
    """

    def __init__(self, recordings: ArrayLike) -> None:
        self.names, self.first, self.index, self._counts = np.unique(
            as_names("recordings", recordings, "a recording"),
            return_index=True, return_inverse=True, return_counts=True,
        )  # fmt: skip

    def first_that_varies(self, values: NDArray[Any]) -> int | None:
        """Find a window whose value differs from the first of its recording."""
        varies = values != values[self.first][self.index]
        rows = np.flatnonzero(varies.reshape(len(values), -1).any(axis=1))
        return int(rows[0]) if len(rows) else None

    def name_of(self, row: int) -> Any:
        """Return the recording of a window."""
        return self.names[self.index[row]].item()

    def mean(self, values: NDArray[np.float64], axis: int = 0) -> NDArray[np.float64]:
        """Average over the windows of each recording, along an axis."""
        values = np.moveaxis(values, axis, 0)
        sums = np.zeros((len(self.names), *values.shape[1:]))
        np.add.at(sums, self.index, values)
        return np.moveaxis((sums.T / self._counts).T, 0, axis)


def _targets_to_pool(y_true: ArrayLike) -> NDArray[Any]:
    targets = as_numbers_or_labels("y_true", y_true)
    if targets.dtype.kind != "U":
        check_finite_columns("y_true", as_columns("y_true", targets))
    return targets


def _predictions_to_pool(y_pred: ArrayLike) -> NDArray[np.float64]:
    if has_text(y_pred):
        raise ValueError(
            "y_pred must hold numbers, since text has no mean, got text; predict"
            ' probabilities with out_of_fold_predictions(..., method="predict_proba")'
        )
    columns = as_columns("y_pred", y_pred)
    advice = "; exclude windows that are in no test fold"
    check_finite_columns("y_pred", columns, advice)
    return columns.reshape(np.shape(y_pred))
