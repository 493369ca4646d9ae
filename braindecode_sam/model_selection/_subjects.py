"""Splits that keep all windows of a subject on one side."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

import numpy as np
from braindecode.datasets import BaseConcatDataset
from numpy.typing import ArrayLike, NDArray
from sklearn.model_selection import GroupShuffleSplit
from skorch.helper import SliceDataset
from torch.utils.data import Dataset, Subset

from braindecode_sam._checks import check_groups, check_same_length

_SIZES = "a fraction between 0 and 1 or a number of subjects"


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

    See Also
    --------
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
            Subject of each window. The net passes those that its ``fit`` gets.

        Returns
        -------
        train, valid : torch.utils.data.Subset
            Subsets without a common subject.
        """
        if groups is None:
            groups = subjects_of(dataset, self.subject)
        else:
            check_same_length(X=dataset, groups=groups)
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
        " X=SubjectWindows(X, groups) (braindecode_sam.datasets), a windows dataset of"
        " braindecode, or fit(X, y, groups=...) to a net of make_regressor or"
        " make_classifier"
    )
