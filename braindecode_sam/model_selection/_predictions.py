"""Out-of-fold predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import is_regressor
from sklearn.pipeline import Pipeline

from braindecode_sam._arguments import check_choice
from braindecode_sam._checks import has_text


def out_of_fold_predictions(
    results: Mapping[str, Any], X: Any, method: str = "predict"
) -> NDArray[Any]:
    """Predict each window with the estimator of the fold that tests it.

    Parameters
    ----------
    results : dict
        Result of ``cross_validate(..., return_estimator=True, return_indices=True)``.
    X : array-like of shape (n_windows, n_chans, n_times)
        The same X as for ``cross_validate``.
    method : {"predict", "predict_proba"}, default="predict"
        Whether to predict values or labels, or the probabilities of a classifier.

    Returns
    -------
    y_pred : ndarray
        - Numbers: float64 of shape (n_windows, n_outputs), even if an estimator
          predicts the shape (n_windows,).
        - Text: str of shape (n_windows,), or (n_windows, n_outputs) for several
          outputs.
        - Probabilities: float64 of shape (n_windows, n_classes), with columns in the
          order of the estimators' ``classes_``.

        Windows in no test fold are nan, or the empty string.

    Raises
    ------
    ValueError
        If `results` lacks estimators or indices, if windows are in several test folds,
        as in repeated or shuffled splits, if an estimator lacks `method`, or if the
        folds' predictions have different columns. Columns of probabilities differ if a
        class is missing in a training fold.

    See Also
    --------
    braindecode_sam.comparison.compare : Scores them pooled, by fold and by subject.

    Examples
    --------
    >>> import numpy as np
    >>> from braindecode_sam.model_selection import out_of_fold_predictions
    >>> from sklearn.dummy import DummyClassifier, DummyRegressor
    >>> from sklearn.model_selection import KFold, cross_validate
    >>> X, y = np.zeros((4, 2, 10)), np.arange(4.0)
    >>> results = cross_validate(
    ...     DummyRegressor(), X, y, cv=KFold(2), return_estimator=True,
    ...     return_indices=True)
    >>> out_of_fold_predictions(results, X).ravel().tolist()
    [2.5, 2.5, 0.5, 0.5]
    >>> results = cross_validate(
    ...     DummyClassifier(), X, ["left", "right", "left", "right"], cv=KFold(2),
    ...     return_estimator=True, return_indices=True)
    >>> out_of_fold_predictions(results, X).tolist()
    ['left', 'left', 'left', 'left']
    >>> out_of_fold_predictions(results, X, method="predict_proba")[0].tolist()
    [0.5, 0.5]
    """
    check_choice("method", method, ("predict", "predict_proba"))
    missing = [key for key in ("estimator", "indices") if key not in results]
    if missing:
        raise ValueError(
            f"results must have the key {missing[0]!r}, got {list(results)}; call"
            " cross_validate with return_estimator=True and return_indices=True"
        )
    estimators, test_folds = results["estimator"], results["indices"]["test"]
    check_disjoint(test_folds)
    for i, estimator in enumerate(estimators):
        _check_can(estimator, method, i)
    if method == "predict_proba":
        _check_same_classes(estimators)
    predicted = [
        _predict(estimator, method, X[rows])
        for estimator, rows in zip(estimators, test_folds, strict=True)
    ]
    return _join_folds(predicted, test_folds, len(X))


def _check_can(estimator: Any, method: str, fold: int) -> None:
    # skorch's regressors have predict_proba too, which returns their values.
    has_values_only = method == "predict_proba" and is_regressor(estimator)
    if has_values_only or not hasattr(estimator, method):
        raise ValueError(
            f"method must be one that every estimator has, got {method!r}, which"
            f" {_name_of(estimator)} of fold {fold + 1} does not have; expected"
            " 'predict', or 'predict_proba' for classifiers with probabilities"
        )


def _name_of(estimator: Any) -> str:
    if isinstance(estimator, Pipeline):
        return f"Pipeline of {type(estimator.steps[-1][1]).__name__}"
    return type(estimator).__name__


def _check_same_classes(estimators: Sequence[Any]) -> None:
    known = [
        [np.asarray(label).tolist() for label in getattr(e, "classes_", [])]
        for e in estimators
    ]
    for i, classes in enumerate(known):
        if classes != known[0]:
            raise ValueError(
                "all estimators must have the same classes, got"
                f" {classes} in fold {i + 1} and {known[0]} in fold 1; use folds whose"
                " training parts have all classes, such as those of"
                " StratifiedGroupKFold"
            )


def _predict(estimator: Any, method: str, X: Any) -> NDArray[Any]:
    predicted = getattr(estimator, method)(X)
    if method == "predict_proba" and isinstance(predicted, list):
        raise ValueError(
            "predict_proba must return one array of shape (n_windows, n_classes), got"
            f" a list of {len(predicted)} from {_name_of(estimator)}; expected a"
            " single output"
        )
    dtype = np.str_ if has_text(predicted) else None
    return np.asarray(predicted, dtype=dtype).reshape(len(predicted), -1)


def _join_folds(
    predicted: list[NDArray[Any]], test_folds: Sequence[ArrayLike], n_windows: int
) -> NDArray[Any]:
    is_text = predicted[0].dtype.kind == "U"
    for i, part in enumerate(predicted):
        shape, kind = part.shape[1:], part.dtype.kind == "U"
        if shape != predicted[0].shape[1:] or kind != is_text:
            raise ValueError(
                "the predictions of all folds must have the same columns, got"
                f" {part.shape[1]} of {part.dtype} in fold {i + 1} and"
                f" {predicted[0].shape[1]} of {predicted[0].dtype} in fold 1"
            )
    n_columns = predicted[0].shape[1]
    if is_text:
        y_pred = np.full((n_windows, n_columns), "", dtype=np.result_type(*predicted))
    else:
        y_pred = np.full((n_windows, n_columns), np.nan)
    for part, rows in zip(predicted, test_folds, strict=True):
        y_pred[np.asarray(rows)] = part
    return y_pred[:, 0] if is_text and n_columns == 1 else y_pred


def check_disjoint(test_folds: Sequence[ArrayLike]) -> None:
    """Check that no window is in several test folds."""
    seen: dict[int, int] = {}
    for i, rows in enumerate(test_folds):
        for row in np.asarray(rows).tolist():
            if row in seen:
                raise ValueError(
                    "test folds must not share windows, got window"
                    f" {row} in test folds {seen[row] + 1} and {i + 1}; use a splitter"
                    " that tests each window at most once, such as GroupKFold, and pass"
                    " repeated splits one repeat at a time"
                )
            seen[row] = i
