"""Splits that keep all windows of a subject on one side."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Iterable, Iterator
from numbers import Integral, Number, Real
from typing import Any, ClassVar

import numpy as np
from braindecode.datasets import BaseConcatDataset
from numpy.typing import ArrayLike, NDArray
from sklearn.model_selection import BaseCrossValidator, GroupShuffleSplit
from skorch.helper import SliceDataset
from torch.utils.data import Dataset, Subset

from braindecode_sam.checks import check_groups, check_same_length

_SIZES = "a fraction between 0 and 1 or a number of subjects"


class SubjectSplit:
    """Hold out some of the training subjects of a fold for validation.

    With ``EEGRegressor(train_split=SubjectSplit(0.2))``, early stopping, checkpoints
    and the choice of an epoch use neither the test fold nor a training subject.
    skorch's ``ValidSplit`` splits by window.

    The data must carry the subjects. This holds for
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

    See Also
    --------
    PredefinedSubjectSplit : Cross-validation split by given lists of subjects.
    subjects_of : Return the subject of each window.
    braindecode_sam.datasets.SubjectWindows : Array that carries the subjects.

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
        """Split the dataset of a net.

        Parameters
        ----------
        dataset : torch.utils.data.Dataset
            Dataset that the net made from X and y.
        y : array-like or None
            Ignored.
        groups : array-like of shape (n_windows,) or None
            Subject of each window, if scikit-learn's metadata routing passes them.

        Returns
        -------
        train, valid : torch.utils.data.Subset
            Subsets without a common subject.
        """
        if groups is None:
            groups = subjects_of(dataset, self.subject)
        else:
            groups = check_groups(groups)
        subjects = np.unique(groups)
        if len(subjects) < 2:
            raise ValueError(
                "SubjectSplit needs at least 2 subjects, one of them for validation,"
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
        held_out = math.ceil(valid_size * n_subjects)  # rounded as in scikit-learn
    if not 0 < held_out < n_subjects:
        raise ValueError(
            f"valid_size must be {_SIZES} and leave at least one of {n_subjects}"
            f" subjects for training, got {valid_size!r}"
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
        " X=SubjectWindows(X, groups) (braindecode_sam.datasets) or a windows dataset"
        " of braindecode"
    )


class PredefinedSubjectSplit(BaseCrossValidator):
    """Train on some subjects and test on others, in a single split.

    Use it as ``cross_validate(cv=PredefinedSubjectSplit(...))`` if a study defines its
    test subjects. scikit-learn's :class:`~sklearn.model_selection.PredefinedSplit`
    lists windows instead, and uses every window on one side.

    Parameters
    ----------
    test_subjects : list of str or list of numbers
        Subjects to test on, as in `groups`. The text "1" differs from the number 1.
    train_subjects : list of str, list of numbers or None, default=None
        Subjects to train on. None means all others. Windows of subjects in neither list
        are not used.

    Raises
    ------
    TypeError
        If an argument is not a list of text or numbers.
    ValueError
        If a list is empty or a subject is in both. When splitting, if `groups` is None
        or lacks a subject, or if no training subject is left.

    See Also
    --------
    SubjectSplit : Hold out training subjects for validation.
    sklearn.model_selection.GroupKFold : Folds that test every subject.

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

    # Requests groups from scikit-learn's metadata routing.
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
        """Yield the split.

        Parameters
        ----------
        X : array-like of shape (n_windows, n_chans, n_times)
            EEG. Only its length is used.
        y : array-like or None
            Ignored.
        groups : array-like of shape (n_windows,)
            Subject of each window.

        Yields
        ------
        train, test : ndarray of int
            Indices of the windows to train and to test on, in ascending order.
        """
        if groups is None:
            raise ValueError(
                "groups must hold the subject of each window, got None; pass groups= to"
                " cross_validate, or call split(X, y, groups)"
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
                "test_subjects must leave a subject for training, got all of"
                f" {_brief_subjects(groups)}"
            )
        yield np.flatnonzero(is_train), np.flatnonzero(is_test)

    def get_n_splits(self, X: Any = None, y: Any = None, groups: Any = None) -> int:
        """Return the number of splits, 1.

        Parameters
        ----------
        X, y, groups : object
            Ignored.

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
        similar = [k for k in known if str(k) == str(unknown[0])]
        hint = ""
        if similar:
            hint = f"; text and numbers differ, and groups has {similar[0]!r}"
        raise ValueError(
            f"{name} must name subjects of groups, {_brief_subjects(groups)}, got"
            f" {unknown[0]!r}{hint}"
        )


def _brief_subjects(groups: NDArray[Any]) -> str:
    return reprlib.repr(np.unique(groups).tolist())
