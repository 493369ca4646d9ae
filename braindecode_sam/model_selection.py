"""Splits that keep subjects whole, also inside a fold of ``cross_validate``."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import joblib
import numpy as np
import pandas as pd
from braindecode.datasets import BaseConcatDataset
from numpy.typing import ArrayLike, NDArray
from sklearn.model_selection import GroupShuffleSplit
from skorch.helper import SliceDataset
from torch.utils.data import Dataset, Subset

from braindecode_sam.checks import check_groups
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
        Subject of each window.

    Raises
    ------
    ValueError
        If the data do not tell.
    """
    windows = getattr(dataset, "X", dataset)
    if hasattr(windows, "groups"):
        return np.asarray(windows.groups)
    if isinstance(windows, (SliceDataset, Subset)):
        rows = getattr(windows, "indices_", windows.indices)
        return subjects_of(windows.dataset, subject)[np.asarray(rows)]
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


def out_of_fold_predictions(results: Mapping[str, Any], X: Any) -> NDArray[Any]:
    """Predict every window with the net that did not train on it.

    Parameters
    ----------
    results : dict
        What ``cross_validate(..., return_estimator=True, return_indices=True)`` gave.
    X : array-like of shape (n_windows, n_chans, n_times)
        What it was given.

    Returns
    -------
    y_pred : ndarray of shape (n_windows, n_outputs)
        nan for windows that are in no test fold.

    Raises
    ------
    ValueError
        If `results` holds no estimators or indices, or if windows are in several test
        folds, as with repeated or shuffled splits.

    Examples
    --------
    >>> import numpy as np
    >>> from braindecode_sam.model_selection import out_of_fold_predictions
    >>> from sklearn.dummy import DummyRegressor
    >>> from sklearn.model_selection import KFold, cross_validate
    >>> X, y = np.zeros((4, 2, 10)), np.arange(4.0)
    >>> results = cross_validate(
    ...     DummyRegressor(), X, y, cv=KFold(2), return_estimator=True,
    ...     return_indices=True)
    >>> out_of_fold_predictions(results, X).ravel().tolist()
    [2.5, 2.5, 0.5, 0.5]
    """
    missing = [key for key in ("estimator", "indices") if key not in results]
    if missing:
        raise ValueError(
            f"results has no {missing[0]!r}; call cross_validate with"
            " return_estimator=True and return_indices=True"
        )
    y_pred: Any = None
    test_folds = results["indices"]["test"]
    _check_disjoint(test_folds)
    for estimator, rows in zip(results["estimator"], test_folds, strict=True):
        predicted = np.asarray(estimator.predict(X[rows])).reshape(len(rows), -1)
        if y_pred is None:
            y_pred = np.full((len(X), predicted.shape[1]), np.nan)
        y_pred[rows] = predicted
    return y_pred


def _check_disjoint(test_folds: Sequence[ArrayLike]) -> None:
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
    _check_disjoint(test_folds)
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
