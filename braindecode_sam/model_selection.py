"""Splits that keep subjects whole, and predictions out of the folds."""

from __future__ import annotations

import contextlib
import math
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from numbers import Integral, Number, Real
from typing import Any, ClassVar

import joblib
import numpy as np
import pandas as pd
from braindecode.datasets import BaseConcatDataset
from numpy.typing import ArrayLike, NDArray
from sklearn.base import is_regressor
from sklearn.model_selection import BaseCrossValidator, GroupShuffleSplit
from sklearn.pipeline import Pipeline
from skorch.helper import SliceDataset
from torch.utils.data import Dataset, Subset

from braindecode_sam._arguments import check_choice
from braindecode_sam.checks import (
    as_columns,
    as_names,
    as_numbers_or_labels,
    check_finite_columns,
    check_groups,
    check_same_length,
    has_text,
)
from braindecode_sam.metrics import normalized_root_mean_squared_error

_SIZES = "a fraction between 0 and 1 or a number of subjects"


class SubjectSplit:
    """Hold out some of a fold's own training subjects for validation.

    For ``EEGRegressor(train_split=SubjectSplit(0.2))``: early stopping, checkpoints
    and the choice of an epoch then see neither the test fold nor a subject that the
    net trains on. skorch's own ``ValidSplit`` splits by window.

    The subjects come with the data: as :class:`~braindecode_sam.datasets
    .SubjectWindows`, as a braindecode windows dataset whose descriptions or metadata
    have them, or as a ``SliceDataset`` of one.

    Parameters
    ----------
    valid_size : float or int, default=0.2
        Fraction (between 0 and 1) or number of the subjects to hold out.
    subject : str, default="subject"
        Column of a dataset's metadata or description with the subject.
    random_state : int, numpy.random.RandomState or None, default=None
        Seed of the choice.

    Raises
    ------
    ValueError
        When the net is fitted: if the data do not tell their subjects, or there are
        too few of them.

    Examples
    --------
    >>> import numpy as np
    >>> from braindecode import EEGRegressor
    >>> from braindecode_sam import SAM
    >>> from braindecode_sam.datasets import SubjectWindows
    >>> from braindecode_sam.model_selection import SubjectSplit
    >>> net = EEGRegressor(
    ...     "EEGNeX", optimizer=SAM, train_split=SubjectSplit(0.25, random_state=0)
    ... )
    >>> groups = np.repeat(["a", "b", "c", "d"], 5)
    >>> X = SubjectWindows(np.zeros((20, 4, 200), dtype=np.float32), groups)
    >>> train, valid = net.get_split_datasets(X, np.arange(20.0))
    >>> len(train), set(groups[valid.indices])
    (15, {np.str_('c')})
    """

    def __init__(
        self,
        valid_size: float = 0.2,
        *,
        subject: str = "subject",
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.valid_size = valid_size
        self.subject = subject
        self.random_state = random_state

    def __call__(
        self,
        dataset: Dataset[Any],
        y: ArrayLike | None = None,
        groups: ArrayLike | None = None,
    ) -> tuple[Subset[Any], Subset[Any]]:
        """Split a net's dataset.

        Parameters
        ----------
        dataset : torch.utils.data.Dataset
            What the net made of its X and y.
        y : array-like or None
            Targets, not looked at.
        groups : array-like of shape (n_windows,) or None
            Subjects, if scikit-learn's metadata routing brings them.

        Returns
        -------
        train, valid : torch.utils.data.Subset
            No subject is in both.
        """
        if groups is None:
            groups = subjects_of(dataset, self.subject)
        else:
            groups = check_groups(groups)
        subjects = np.unique(groups)
        if len(subjects) < 2:
            raise ValueError(
                "SubjectSplit needs at least 2 subjects, one of them to validate on,"
                f" got {len(subjects)}: {list(subjects)}"
            )
        _check_valid_size(self.valid_size, len(subjects))
        splitter = GroupShuffleSplit(
            n_splits=1, test_size=self.valid_size, random_state=self.random_state
        )
        train, valid = next(splitter.split(np.empty(len(groups)), groups=groups))
        return Subset(dataset, train), Subset(dataset, valid)

    def __repr__(self) -> str:
        return f"SubjectSplit({self.valid_size!r}, random_state={self.random_state!r})"


def _check_valid_size(valid_size: float, n_subjects: int) -> None:
    is_number = isinstance(valid_size, Integral) and not isinstance(valid_size, bool)
    if not (is_number or isinstance(valid_size, Real)):
        raise TypeError(f"valid_size must be {_SIZES}, got {valid_size!r}")
    held_out = valid_size if is_number else 0
    if not is_number and 0 < valid_size < 1:
        held_out = math.ceil(valid_size * n_subjects)  # as scikit-learn rounds
    if not 0 < held_out < n_subjects:
        raise ValueError(
            f"valid_size must be {_SIZES} and leave one of {n_subjects} subjects to"
            f" train on, got {valid_size!r}"
        )


def subjects_of(dataset: Any, subject: str = "subject") -> NDArray[Any]:
    """Find out whose the windows of a dataset are.

    Parameters
    ----------
    dataset : torch.utils.data.Dataset
        skorch's dataset around the windows, or a windows dataset itself.
    subject : str, default="subject"
        Column with the subject, for braindecode datasets.

    Returns
    -------
    subjects : ndarray of shape (n_windows,)
        Subject of each window; text of a fixed width or numbers.

    Raises
    ------
    ValueError
        If the data do not tell, or a subject is missing.

    Examples
    --------
    >>> import numpy as np
    >>> from braindecode_sam.datasets import SubjectWindows
    >>> from braindecode_sam.model_selection import subjects_of
    >>> from torch.utils.data import Subset
    >>> windows = SubjectWindows(np.zeros((3, 2, 100)), ["a", "a", "b"])
    >>> subjects_of(Subset(windows, [0, 2]))
    array(['a', 'b'], dtype='<U1')
    """
    return check_groups(_subjects_of(dataset, subject))


def _subjects_of(dataset: Any, subject: str) -> NDArray[Any]:
    windows = getattr(dataset, "X", dataset)
    if hasattr(windows, "groups"):
        return np.asarray(windows.groups)
    if isinstance(windows, (SliceDataset, Subset)):
        rows = getattr(windows, "indices_", windows.indices)
        return _subjects_of(windows.dataset, subject)[np.asarray(rows)]
    if isinstance(windows, BaseConcatDataset):
        metadata = windows.get_metadata()
        if subject in metadata.columns:
            return metadata[subject].to_numpy()
        raise ValueError(
            f"subject names the column {subject!r}, which is not among"
            f" {list(metadata.columns)}"
        )
    raise ValueError(
        f"SubjectSplit cannot tell whose windows these are: {type(windows).__name__}"
        " knows no subjects. Pass X=SubjectWindows(X, groups)"
        " (braindecode_sam.datasets) or a braindecode windows dataset."
    )


class PredefinedSubjectSplit(BaseCrossValidator):
    """Train on some subjects and test on others, in a single split.

    For ``cross_validate(cv=PredefinedSubjectSplit(...))``, where a study says who is
    tested. scikit-learn's :class:`~sklearn.model_selection.PredefinedSplit` names
    windows instead, and cannot leave any out of both sides.

    Parameters
    ----------
    test_subjects : list of str or list of numbers
        Subjects to test on, as `groups` spells them: the text "1" is not the number 1.
    train_subjects : list of str, list of numbers or None, default=None
        Subjects to train on; None means all others. Windows of subjects who are in
        neither list are left out.

    Raises
    ------
    TypeError
        If an argument is not a list of text or numbers.
    ValueError
        If a list is empty, or a subject is in both; when splitting, if there are no
        groups, a subject is not among them, or nobody is left to train on.

    Examples
    --------
    >>> import numpy as np
    >>> from braindecode_sam.model_selection import PredefinedSubjectSplit
    >>> from sklearn.dummy import DummyRegressor
    >>> from sklearn.model_selection import cross_validate
    >>> X, y, groups = np.zeros((4, 2, 10)), np.arange(4.0), ["a", "b", "b", "c"]
    >>> cv = PredefinedSubjectSplit(test_subjects=["b"])
    >>> [(train.tolist(), test.tolist()) for train, test in cv.split(X, y, groups)]
    [([0, 3], [1, 2])]
    >>> scores = cross_validate(DummyRegressor(), X, y, groups=groups, cv=cv)
    >>> scores["test_score"].tolist()
    [0.0]
    """

    # scikit-learn's metadata routing hands groups only to those who ask.
    __metadata_request__split: ClassVar = {"groups": True}

    def __init__(
        self, test_subjects: Iterable[Any], train_subjects: Iterable[Any] | None = None
    ) -> None:
        self.test_subjects = _subject_list("test_subjects", test_subjects)
        self.train_subjects = None
        if train_subjects is not None:
            self.train_subjects = _subject_list("train_subjects", train_subjects)
            both = [s for s in self.train_subjects if s in self.test_subjects]
            if both:
                raise ValueError(
                    "train_subjects and test_subjects must have no subject in common,"
                    f" got {both[0]!r} in both"
                )

    def split(
        self, X: Any, y: Any = None, groups: ArrayLike | None = None
    ) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
        """Give the one split.

        Parameters
        ----------
        X : array-like of shape (n_windows, n_chans, n_times)
            EEG, of which only the length is looked at.
        y : array-like or None
            Not looked at.
        groups : array-like of shape (n_windows,)
            Subject of each window.

        Yields
        ------
        train, test : ndarray of int
            Windows to train and to test on, in ascending order.
        """
        if groups is None:
            raise ValueError(
                "groups is None, but PredefinedSubjectSplit needs the subject of each"
                " window; pass groups= to cross_validate, or split(X, y, groups)"
            )
        check_same_length(X=X, groups=groups)
        groups = check_groups(groups)
        _check_known("test_subjects", self.test_subjects, groups)
        is_test = np.isin(groups, self.test_subjects)
        is_train = ~is_test
        if self.train_subjects is not None:
            _check_known("train_subjects", self.train_subjects, groups)
            is_train = np.isin(groups, self.train_subjects)
        if not is_train.any():
            raise ValueError(
                "test_subjects must leave a subject to train on, got all of"
                f" {_known(groups)}"
            )
        yield np.flatnonzero(is_train), np.flatnonzero(is_test)

    def get_n_splits(self, X: Any = None, y: Any = None, groups: Any = None) -> int:
        """Give the number of splits, 1.

        Parameters
        ----------
        X, y, groups : object
            Not looked at.

        Returns
        -------
        n_splits : int
            Always 1.
        """
        return 1


def _subject_list(name: str, subjects: Any) -> list[Any]:
    is_list = isinstance(subjects, Iterable) and not isinstance(subjects, (str, bytes))
    listed = list(subjects) if is_list else [subjects]
    listed = [s.item() if isinstance(s, np.generic) else s for s in listed]
    if not is_list or not all(isinstance(s, (str, Number)) for s in listed):
        raise TypeError(
            f"{name} must be a list of subjects, text or numbers, got {subjects!r}"
        )
    if not listed:
        raise ValueError(f"{name} must name at least one subject, got {subjects!r}")
    return listed


def _check_known(name: str, subjects: list[Any], groups: NDArray[Any]) -> None:
    known = set(groups.tolist())
    unknown = [subject for subject in subjects if subject not in known]
    if unknown:
        alike = [k for k in known if str(k) == str(unknown[0])]
        hint = (
            f"; text and numbers differ, and groups has {alike[0]!r}" if alike else ""
        )
        raise ValueError(
            f"{name} names {unknown[0]!r}, which is not among the subjects"
            f" {_known(groups)} of groups{hint}"
        )


def _known(groups: NDArray[Any]) -> str:
    return reprlib.repr(np.unique(groups).tolist())


def out_of_fold_predictions(
    results: Mapping[str, Any], X: Any, method: str = "predict"
) -> NDArray[Any]:
    """Predict every window with the estimator that did not train on it.

    Parameters
    ----------
    results : dict
        What ``cross_validate(..., return_estimator=True, return_indices=True)`` gave.
    X : array-like of shape (n_windows, n_chans, n_times)
        What it was given.
    method : {"predict", "predict_proba"}, default="predict"
        Values or labels; or probabilities, which only classifiers have.

    Returns
    -------
    y_pred : ndarray
        - Numbers that were predicted: float64 of shape (n_windows, n_outputs), also
          where an estimator predicts the shape (n_windows,).
        - Text that was predicted: str of shape (n_windows,), or (n_windows, n_outputs)
          of several outputs.
        - Probabilities: float64 of shape (n_windows, n_classes), columns in the order
          of the estimators' ``classes_``.

        Windows that are in no test fold have nan, or the empty text.

    Raises
    ------
    ValueError
        If `results` holds no estimators or indices, if windows are in several test
        folds, as with repeated or shuffled splits, if an estimator cannot do `method`,
        or if the folds' predictions differ in their columns: the probabilities of
        estimators that know different classes, since a class was missing in a
        training fold.

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
            f"results has no {missing[0]!r}; call cross_validate with"
            " return_estimator=True and return_indices=True"
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
    return _put_together(predicted, test_folds, len(X))


def _check_can(estimator: Any, method: str, fold: int) -> None:
    # skorch's regressors have predict_proba too, which gives their values.
    has_values_only = method == "predict_proba" and is_regressor(estimator)
    if has_values_only or not hasattr(estimator, method):
        raise ValueError(
            f"method must be one that every estimator has, got {method!r}, which"
            f" {_name_of(estimator)} of fold {fold + 1} does not have; accepted are"
            " 'predict', and 'predict_proba' for classifiers with probabilities"
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
                "probabilities of different classes cannot be put together: the"
                f" estimator of fold {i + 1} knows {classes}, that of fold 1"
                f" {known[0]}; expected folds with every class in their training part,"
                " such as StratifiedGroupKFold's"
            )


def _predict(estimator: Any, method: str, X: Any) -> NDArray[Any]:
    predicted = getattr(estimator, method)(X)
    if method == "predict_proba" and isinstance(predicted, list):
        raise ValueError(
            "predict_proba must give one array of shape (n_windows, n_classes), got a"
            f" list of {len(predicted)} from {_name_of(estimator)}; expected one output"
        )
    dtype = np.str_ if has_text(predicted) else None
    return np.asarray(predicted, dtype=dtype).reshape(len(predicted), -1)


def _put_together(
    predicted: list[NDArray[Any]], test_folds: Sequence[ArrayLike], n_windows: int
) -> NDArray[Any]:
    is_text = predicted[0].dtype.kind == "U"
    for i, part in enumerate(predicted):
        shape, kind = part.shape[1:], part.dtype.kind == "U"
        if shape != predicted[0].shape[1:] or kind != is_text:
            raise ValueError(
                f"the predictions of fold {i + 1} are {part.shape[1]} columns of"
                f" {part.dtype}, those of fold 1 {predicted[0].shape[1]} columns of"
                f" {predicted[0].dtype}; expected the same of all folds"
            )
    n_columns = predicted[0].shape[1]
    if is_text:
        y_pred = np.full((n_windows, n_columns), "", dtype=np.result_type(*predicted))
    else:
        y_pred = np.full((n_windows, n_columns), np.nan)
    for part, rows in zip(predicted, test_folds, strict=True):
        y_pred[np.asarray(rows)] = part
    return y_pred[:, 0] if is_text and n_columns == 1 else y_pred


def pool_by_recording(
    y_true: ArrayLike, y_pred: ArrayLike, recordings: ArrayLike
) -> tuple[NDArray[Any], NDArray[np.float64], NDArray[Any]]:
    """Average the predictions of each recording's windows, to score by recording.

    Where a target belongs to a whole recording, such as a person's age, its windows
    are no independent samples: score the mean of their predictions.

    Parameters
    ----------
    y_true : array-like of shape (n_windows,) or (n_windows, n_outputs)
        Targets, numbers or text labels; the same in all windows of a recording.
    y_pred : array-like of shape (n_windows,) or (n_windows, n_outputs)
        Predicted values or probabilities.
    recordings : array-like of shape (n_windows,)
        Recording of each window, text or numbers: a subject where each has one
        recording, or the column ``path`` of a windows dataset's ``get_metadata()``. A
        number that starts again with each subject would mix their windows.

    Returns
    -------
    y_true : ndarray of shape (n_recordings,) or (n_recordings, n_outputs)
        The target of each recording.
    y_pred : ndarray of shape (n_recordings,) or (n_recordings, n_outputs), float64
        Mean over the windows of each recording.
    names : ndarray of shape (n_recordings,)
        The recordings, sorted as by :func:`numpy.unique`: the order of the other two.

    Raises
    ------
    ValueError
        If lengths differ, a recording's target varies, or a target or a prediction is
        missing or not finite. Predictions of windows that are in no test fold are
        missing: leave these windows out of all three, as in the example.

    Examples
    --------
    Here each person is one recording, and two people are tested:

    >>> import numpy as np
    >>> from braindecode_sam.model_selection import (
    ...     PredefinedSubjectSplit, out_of_fold_predictions, pool_by_recording)
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.metrics import accuracy_score
    >>> from sklearn.model_selection import cross_validate
    >>> people = np.repeat(["a", "b", "c", "d"], 3)
    >>> y = np.repeat(["ill", "well", "ill", "well"], 3)
    >>> X = np.array([1, 2, 9, 8, 7, 2, 1, 2, 1, 8, 9, 8]).reshape(12, 1)
    >>> results = cross_validate(
    ...     LogisticRegression(), X, y, groups=people,
    ...     cv=PredefinedSubjectSplit(["a", "b"]), return_estimator=True,
    ...     return_indices=True)
    >>> y_pred = out_of_fold_predictions(results, X, method="predict_proba")
    >>> tested = np.concatenate(results["indices"]["test"])
    >>> true, pooled, names = pool_by_recording(
    ...     y[tested], y_pred[tested], people[tested])
    >>> names.tolist(), true.tolist(), pooled.round(1).tolist()
    (['a', 'b'], ['ill', 'well'], [[0.6, 0.4], [0.4, 0.6]])
    >>> classes = results["estimator"][0].classes_
    >>> accuracy_score(true, classes[pooled.argmax(axis=1)])
    1.0

    For regression, ``r2_score(true, pooled)`` of the predicted values.
    """
    check_same_length(y_true=y_true, y_pred=y_pred, recordings=recordings)
    true, predicted = _targets_to_pool(y_true), _predictions_to_pool(y_pred)
    pooled = Recordings(recordings)
    row = pooled.first_that_varies(true)
    if row is not None:
        one, other = true[pooled.first[pooled.index[row]]], true[row]
        raise ValueError(
            "y_true must be the same in all windows of a recording, but that of"
            f" {pooled.name_of(row)!r} varies, {one.tolist()!r} and {other.tolist()!r}"
        )
    return true[pooled.first], pooled.mean(predicted), pooled.names


class Recordings:
    """Which windows belong together.

    Parameters
    ----------
    recordings : array-like of shape (n_windows,)
        Recording of each window.

    Attributes
    ----------
    names : ndarray of shape (n_recordings,)
        Sorted.
    first : ndarray of int of shape (n_recordings,)
        The first window of each.
    index : ndarray of int of shape (n_windows,)
        Place of each window's recording among the names.
    """

    def __init__(self, recordings: ArrayLike) -> None:
        self.names, self.first, self.index, self._counts = np.unique(
            as_names("recordings", recordings, "a recording"),
            return_index=True, return_inverse=True, return_counts=True,
        )  # fmt: skip

    def first_that_varies(self, values: NDArray[Any]) -> int | None:
        """Find a window whose value is not that of its recording's first window."""
        varies = values != values[self.first][self.index]
        rows = np.flatnonzero(varies.reshape(len(values), -1).any(axis=1))
        return int(rows[0]) if len(rows) else None

    def name_of(self, row: int) -> Any:
        """Give the recording of a window."""
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
            "y_pred must hold numbers, of which there is a mean, got text; predict"
            ' probabilities: out_of_fold_predictions(..., method="predict_proba")'
        )
    columns = as_columns("y_pred", y_pred)
    advice = "; leave out windows that are in no test fold"
    check_finite_columns("y_pred", columns, advice)
    return columns.reshape(np.shape(y_pred))


def check_disjoint(test_folds: Sequence[ArrayLike]) -> None:
    """Check that no window is in several test folds."""
    seen: dict[int, int] = {}
    for i, rows in enumerate(test_folds):
        for row in np.asarray(rows).tolist():
            if row in seen:
                raise ValueError(
                    f"window {row} is in test folds {seen[row] + 1} and {i + 1}, so it"
                    " has several predictions; expected a splitter that tests each"
                    " window once at most, such as GroupKFold. Of repeated splits, give"
                    " one repeat at a time."
                )
            seen[row] = i


def nrmse_table(
    y: ArrayLike, predictions: Mapping[str, ArrayLike], test_folds: Iterable[ArrayLike]
) -> pd.DataFrame:
    """Compare predictions by both NRMSEs, for each fold and pooled.

    The mean over the folds and the score of all windows pooled differ, since each
    fold has a spread of its own. Report both.

    Parameters
    ----------
    y : array-like of shape (n_windows,) or (n_windows, n_outputs)
        Targets.
    predictions : dict of str to array-like
        Out-of-fold predictions by name, shaped as `y`.
    test_folds : sequence of ndarray of int
        Windows of each test fold, ``results["indices"]["test"]``. No window may be in
        several of them.

    Returns
    -------
    table : pandas.DataFrame
        A row for each fold, their mean, and all windows pooled; two columns for
        each prediction, NRMSE by standard deviation and by range.

    Examples
    --------
    >>> from braindecode_sam.model_selection import nrmse_table
    >>> nrmse_table([0.0, 1.0, 0.0, 3.0], {"net": [0.0, 0.0, 0.0, 3.0]},
    ...             [[0, 1], [2, 3]]).round(2)
            net, std  net, range
    fold 1      1.41        0.71
    fold 2      0.00        0.00
    mean        0.71        0.35
    pooled      0.41        0.17
    """
    test_folds = list(test_folds)
    check_disjoint(test_folds)
    y = np.asarray(y)
    rows = {f"fold {i + 1}": np.asarray(f) for i, f in enumerate(test_folds)}
    rows["pooled"] = np.concatenate(list(rows.values()))
    table = pd.DataFrame(
        {
            f"{name}, {kind}": [
                normalized_root_mean_squared_error(
                    y[part], np.asarray(y_pred)[part], normalization=kind
                )
                for part in rows.values()
            ]
            for name, y_pred in predictions.items()
            for kind in ("std", "range")
        },
        index=list(rows),
    )
    table.loc["mean"] = table.iloc[:-1].mean()
    return table.loc[[*list(rows)[:-1], "mean", "pooled"]]


@contextlib.contextmanager
def on_dask(
    X: Any, y: Any, splits: list[Any], client: Any = None, **options: Any
) -> Iterator[Any]:
    """Let scikit-learn cross-validate on a Dask cluster that may lose workers.

    joblib's Dask backend sends the rows of a fold to a single worker, and Dask's memory
    manager drops what more than one worker has, so that with a lost worker data are
    lost and with them the scores. Here, data and rows go to each worker once and stay
    as long as the context is open; folds of a lost worker run again elsewhere.

    Parameters
    ----------
    X : array-like of shape (n_windows, n_chans, n_times)
        The very object that ``cross_validate`` is given.
    y : array-like of shape (n_windows,) or (n_windows, n_outputs)
        Likewise.
    splits : list of tuple of ndarray
        Training and test rows of each fold, ``list(cv.split(X, y, groups))``; the very
        list that ``cross_validate`` is given as ``cv``.
    client : distributed.Client or None, default=None
        Cluster to run on; None means the current one.
    **options
        Of joblib's Dask backend.

    Raises
    ------
    ImportError
        Without Dask; ``pip install "braindecode_sam[distributed]"``.
    TypeError
        If `splits` is not such a list.
    ValueError
        If there is no client.

    Examples
    --------
    ::

        splits = list(GroupKFold(5).split(X, y, groups))
        with Client("tcp://scheduler:8786"), on_dask(X, y, splits):
            scores = cross_validate(net, X, y, cv=splits, scoring=SCORING)
    """
    if not isinstance(splits, list):
        raise TypeError(
            "splits must be a list of training and test rows, such as"
            f" list(cv.split(X, y, groups)), got {splits!r}"
        )
    import distributed  # an extra, which only those need who have a cluster

    rows = [part for split in splits for part in split]
    client = distributed.get_client() if client is None else client
    manages_memory = client.amm.running()
    client.amm.stop()
    try:
        with joblib.parallel_config(
            "dask", client=client, scatter=[X, y, *rows], **options
        ):
            yield client
    finally:
        if manages_memory:
            client.amm.start()
