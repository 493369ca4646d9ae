"""Cross-validation by subject, out-of-fold predictions and Dask clusters."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import joblib
import numpy as np
from braindecode.datasets import BaseConcatDataset
from numpy.typing import ArrayLike, NDArray
from sklearn.model_selection import GroupShuffleSplit
from skorch.helper import SliceDataset
from torch.utils.data import Dataset, Subset

from braindecode_sam._arguments import check_choice
from braindecode_sam._checks import (
    check_disjoint,
    check_groups,
    check_same_length,
    has_text,
)

__all__ = ["SubjectSplit", "on_dask", "out_of_fold_predictions", "subjects_of"]


class SubjectSplit:
    """Hold out some of the training subjects of a fold for validation.

    With ``EEGRegressor(train_split=SubjectSplit(0.2))``, early stopping, checkpoints
    and the choice of an epoch use neither the test fold nor a training subject.
    skorch's ``ValidSplit`` splits by window.

    The subjects are the `groups` that :class:`braindecode_sam.nets.Regressor` and
    ``Classifier`` take in ``fit``, or the data carry them. This holds for
    :class:`~braindecode_sam.datasets.SubjectWindows`, for braindecode's windows
    datasets with subjects in their metadata or descriptions, and for a ``SliceDataset``
    of one.

    Parameters
    ----------
    valid_size : float or int, default=0.2
        Fraction (between 0 and 1) or number of the subjects to hold out.
    subject : str, default="subject"
        Column of a dataset's metadata or description that names the subject.
    random_state : int, numpy.random.RandomState or None, default=None
        Seed of the choice of subjects.

    Raises
    ------
    ValueError
        When the net is fitted, if the data carry no subjects or there are too few.

    Examples
    --------
    >>> import numpy as np
    >>> from braindecode import EEGRegressor
    >>> from braindecode_sam import SAM
    >>> from braindecode_sam.datasets import SubjectWindows
    >>> from braindecode_sam.model_selection import SubjectSplit
    >>> split = SubjectSplit(0.25, random_state=0)
    >>> net = EEGRegressor("EEGNeX", optimizer=SAM, train_split=split)
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
        """Return the training and the validation subset of a net's dataset."""
        given = _subjects_of(dataset, self.subject) if groups is None else groups
        groups = check_groups(given)
        check_same_length(X=dataset, groups=groups)
        splitter = GroupShuffleSplit(
            n_splits=1, test_size=self.valid_size, random_state=self.random_state
        )
        try:
            train, valid = next(splitter.split(np.empty(len(groups)), groups=groups))
        except ValueError as error:
            raise ValueError(
                "valid_size must leave some subjects for training and some for"
                f" validation, got {self.valid_size!r} and"
                f" {len(np.unique(groups))} subjects: {error}"
            ) from error
        return Subset(dataset, train), Subset(dataset, valid)

    def __repr__(self) -> str:
        return (
            f"SubjectSplit({self.valid_size!r}, subject={self.subject!r},"
            f" random_state={self.random_state!r})"
        )


def subjects_of(dataset: Any, subject: str = "subject") -> NDArray[Any]:
    """Return the subject of each window.

    Parameters
    ----------
    dataset : torch.utils.data.Dataset
        A windows dataset, or skorch's dataset of one.
    subject : str, default="subject"
        Column that names the subject, for braindecode's datasets.

    Returns
    -------
    subjects : ndarray of shape (n_windows,)
        Subjects, as text of a fixed width or numbers.

    Raises
    ------
    ValueError
        If the data carry no subjects, or a subject is missing.

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
            f"subject must name a column among {list(metadata.columns)}, got"
            f" {subject!r}"
        )
    raise ValueError(
        f"no subjects found in {type(windows).__name__}; pass"
        " X=SubjectWindows(X, groups) (braindecode_sam.datasets), a windows dataset of"
        " braindecode, or fit(X, y, groups=...) to a net of make_regressor or"
        " make_classifier"
    )


def out_of_fold_predictions(
    results: Mapping[str, Any], X: Any, method: str = "predict"
) -> NDArray[Any]:
    """Predict each window with the estimator of the fold that tests it.

    :func:`braindecode_sam.comparison.compare` scores such predictions.

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
        - Numbers: float64 of shape (n_windows, n_outputs), even for one output.
        - Text: str of shape (n_windows,), or (n_windows, n_outputs) for several
          outputs.
        - Probabilities: float64 of shape (n_windows, n_classes), with columns in the
          order of the estimators' ``classes_``.

        Windows in no test fold are nan, or the empty string.

    Raises
    ------
    ValueError
        If `results` lacks estimators or indices, if windows are in several test folds,
        as in repeated or shuffled splits, if the folds' predictions have different
        columns, or if probabilities are asked of estimators without ``classes_`` or
        with different ones, since a class is missing in a training fold.

    Examples
    --------
    >>> import numpy as np
    >>> from braindecode_sam.model_selection import out_of_fold_predictions
    >>> from sklearn.dummy import DummyClassifier
    >>> from sklearn.model_selection import KFold, cross_validate
    >>> X, y = np.zeros((4, 2, 10)), ["left", "right", "left", "right"]
    >>> results = cross_validate(
    ...     DummyClassifier(), X, y, cv=KFold(2), return_estimator=True,
    ...     return_indices=True)
    >>> out_of_fold_predictions(results, X).tolist()
    ['left', 'left', 'left', 'left']
    >>> out_of_fold_predictions(results, X, method="predict_proba")[0].tolist()
    [0.5, 0.5]
    """
    check_choice("method", method, ("predict", "predict_proba"))
    if not {"estimator", "indices"} <= set(results):
        raise ValueError(
            "results must have 'estimator' and 'indices', as cross_validate returns"
            " them with return_estimator=True and return_indices=True, got"
            f" {list(results)}"
        )
    estimators, test_folds = results["estimator"], results["indices"]["test"]
    check_disjoint(test_folds)
    if method == "predict_proba":
        _check_same_classes(estimators)
    parts = [
        getattr(estimator, method)(X[rows])
        for estimator, rows in zip(estimators, test_folds, strict=True)
    ]
    predicted = np.concatenate([np.reshape(part, (len(part), -1)) for part in parts])
    is_text = has_text(predicted)
    predicted = predicted.astype(np.str_ if is_text else np.float64)
    untested = "" if is_text else np.nan
    y_pred = np.full((len(X), predicted.shape[1]), untested, predicted.dtype)
    y_pred[np.concatenate(test_folds)] = predicted
    return y_pred[:, 0] if is_text and y_pred.shape[1] == 1 else y_pred


def _check_same_classes(estimators: Sequence[Any]) -> None:
    """Check that columns of probabilities mean the same in all folds."""
    # Regressors have none, and predict_proba of skorch's returns values. Classifiers of
    # several outputs have a list.
    known = [getattr(estimator, "classes_", None) for estimator in estimators]
    first: Any = known[0]
    for i, classes in enumerate(known):
        if not isinstance(classes, np.ndarray) or not np.array_equal(classes, first):
            raise ValueError(
                "predict_proba needs classifiers of one output whose classes_ are the"
                f" same in all folds, got {classes} in fold {i + 1} and {first} in fold"
                " 1; if a class is missing in a training fold, use folds such as those"
                " of StratifiedGroupKFold"
            )


@contextlib.contextmanager
def on_dask(
    X: Any, y: Any, splits: list[Any], client: Any = None, **options: Any
) -> Iterator[Any]:
    """Run ``cross_validate`` on a Dask cluster that may lose workers.

    joblib's Dask backend sends the rows of a fold to one worker, and Dask's memory
    manager drops copies on other workers. If a worker is lost, its data and scores are
    lost too. This context sends data and rows to each worker once and keeps them while
    it is open. Folds of a lost worker run again on another one. It needs Dask, which
    ``pip install ".[distributed]"`` installs.

    Parameters
    ----------
    X, y : array-like
        The same objects as are passed to ``cross_validate``.
    splits : list of tuple of ndarray
        Training and test rows of each fold, ``list(cv.split(X, y, groups))``. Pass the
        same list to ``cross_validate`` as ``cv``.
    client : distributed.Client or None, default=None
        Client of the cluster. None means the current one.
    **options
        Options of joblib's Dask backend.

    Raises
    ------
    TypeError
        If `splits` is not a list.

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
    import distributed  # an optional dependency

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
