"""Splits that keep subjects whole, also inside a fold of ``cross_validate``."""

import numpy as np
from braindecode.datasets import BaseConcatDataset
from sklearn.model_selection import GroupShuffleSplit
from skorch.helper import SliceDataset
from torch.utils.data import Subset


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

    def __init__(self, valid_size=0.2, *, subject="subject", random_state=None):
        self.valid_size = valid_size
        self.subject = subject
        self.random_state = random_state

    def __call__(self, dataset, y=None, groups=None):
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
        subjects = np.unique(groups)
        if len(subjects) < 2:
            raise ValueError(
                "SubjectSplit needs at least 2 subjects, one of them to validate on,"
                f" got {len(subjects)}: {list(subjects)}"
            )
        splitter = GroupShuffleSplit(
            n_splits=1, test_size=self.valid_size, random_state=self.random_state
        )
        train, valid = next(splitter.split(np.empty(len(groups)), groups=groups))
        return Subset(dataset, train), Subset(dataset, valid)

    def __repr__(self):
        return f"SubjectSplit({self.valid_size!r}, random_state={self.random_state!r})"


def subjects_of(dataset, subject="subject"):
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
