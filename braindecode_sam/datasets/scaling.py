"""Windows scaled subject by subject."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, TransformerMixin

from braindecode_sam._arguments import check_choice
from braindecode_sam.checks import check_groups, check_windows
from braindecode_sam.datasets.arrays import SubjectWindows

FEW = 16  # windows scaled together, to bound the memory of float64


class SubjectScaler(TransformerMixin, BaseEstimator):
    """Standardize each subject's windows by that subject's own statistics.

    Every channel of a subject is centered by its mean and divided by its standard
    deviation, both over time and over all of the subject's windows that are given.

    ``fit`` learns nothing, and neither targets nor other subjects are used, so no test
    fold leaks into the training. But the statistics come from the windows of the same
    call: a prediction for one window depends on which other windows of its subject are
    given beside it, and a window that is given alone is standardized by itself. Give
    a subject's windows together, both in training and in use.

    Parameters
    ----------
    with_mean : bool, default=True
        Subtract the mean.
    with_std : bool, default=True
        Divide by the standard deviation. A channel that is constant in a subject is
        divided by 1, so that it becomes zero where the mean is subtracted.

    See Also
    --------
    SubjectWindows : Windows that know their subjects inside a pipeline.
    sklearn.preprocessing.StandardScaler : Statistics of the training fold instead.

    Notes
    -----
    The statistics are accumulated in float64, the mean before the variance. Beside the
    scaled windows, only a few windows at a time are held in memory.

    Examples
    --------
    >>> import numpy as np
    >>> from braindecode_sam.datasets import SubjectScaler, SubjectWindows
    >>> rng = np.random.default_rng(0)
    >>> groups = np.repeat(["a", "b"], 5)
    >>> X = rng.normal(size=(10, 4, 100))
    >>> X[groups == "b"] *= 50
    >>> scaled = SubjectScaler().fit_transform(SubjectWindows(X, groups))
    >>> scaled
    <SubjectWindows of shape (10, 4, 100), 2 subjects>
    >>> np.asarray(scaled[groups == "b"]).std().round(6)
    np.float64(1.0)

    In a pipeline, the windows carry their subjects:

    >>> from braindecode import EEGRegressor
    >>> from sklearn.model_selection import GroupKFold, cross_validate
    >>> from sklearn.pipeline import make_pipeline
    >>> net = EEGRegressor(
    ...     "EEGNeX", max_epochs=1, batch_size=5, train_split=None, verbose=0)
    >>> X = SubjectWindows(X.repeat(2, axis=2).astype("float32"), groups)
    >>> y = np.arange(10, dtype="float32")
    >>> scores = cross_validate(
    ...     make_pipeline(SubjectScaler(), net), X, y, groups=groups, cv=GroupKFold(2),
    ...     error_score="raise")
    >>> scores["test_score"].shape
    (2,)
    """

    def __init__(self, *, with_mean: bool = True, with_std: bool = True) -> None:
        self.with_mean = with_mean
        self.with_std = with_std

    def fit(
        self, X: Any, y: ArrayLike | None = None, groups: ArrayLike | None = None
    ) -> SubjectScaler:
        """Learn nothing.

        Parameters
        ----------
        X : SubjectWindows or array-like of shape (n_windows, n_chans, n_times)
            Ignored.
        y : array-like or None
            Ignored.
        groups : array-like or None
            Ignored.

        Returns
        -------
        self : SubjectScaler
            The scaler itself.
        """
        return self

    def transform(self, X: Any, groups: ArrayLike | None = None) -> Any:
        """Standardize each subject's windows.

        Parameters
        ----------
        X : SubjectWindows or array-like of shape (n_windows, n_chans, n_times)
            EEG; it is not changed.
        groups : array-like of shape (n_windows,) or None
            Subject of each window; needed for an array. SubjectWindows bring their
            own.

        Returns
        -------
        scaled : SubjectWindows or ndarray of shape (n_windows, n_chans, n_times)
            SubjectWindows with the same groups for SubjectWindows, else an array. Its
            dtype is that of X where that is a floating one, else float64.

        Raises
        ------
        ValueError
            If an array comes without groups, SubjectWindows with groups, a value is
            not finite, or an option is not a bool.
        """
        for option in ("with_mean", "with_std"):
            check_choice(option, getattr(self, option), (True, False))
        if isinstance(X, SubjectWindows):
            if groups is not None:
                raise ValueError(
                    "groups must be None for SubjectWindows, which know their subjects,"
                    f" got {type(groups).__name__}"
                )
            return SubjectWindows(self._scale(X, X.groups), X.groups)
        if groups is None:
            raise ValueError(
                f"SubjectScaler cannot tell whose windows these are: {type(X).__name__}"
                " knows no subjects. Pass X=SubjectWindows(X, groups)"
                " (braindecode_sam.datasets), or groups beside an array."
            )
        return self._scale(X if hasattr(X, "shape") else np.asarray(X), groups)

    def fit_transform(
        self, X: Any, y: ArrayLike | None = None, groups: ArrayLike | None = None
    ) -> Any:
        """Standardize each subject's windows, as :meth:`transform` does.

        Parameters
        ----------
        X : SubjectWindows or array-like of shape (n_windows, n_chans, n_times)
            EEG.
        y : array-like or None
            Ignored.
        groups : array-like of shape (n_windows,) or None
            Subject of each window; needed for an array.

        Returns
        -------
        scaled : SubjectWindows or ndarray of shape (n_windows, n_chans, n_times)
            As of :meth:`transform`.
        """
        return self.transform(X, groups)

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        return tags

    def _scale(self, X: Any, groups: ArrayLike) -> NDArray[Any]:
        check_windows(X, groups=groups)
        dtype = np.asarray(X[:1]).dtype
        scaled = np.empty(X.shape, dtype if dtype.kind == "f" else np.float64)
        _, subject_of = np.unique(check_groups(groups), return_inverse=True)
        for subject in range(subject_of.max() + 1):
            rows = np.flatnonzero(subject_of == subject)
            parts = np.split(rows, range(FEW, len(rows), FEW))
            mean, std = _statistics(X, parts)
            shift = mean if self.with_mean else 0.0
            scale = std if self.with_std else 1.0
            for part in parts:
                scaled[part] = (_read(X, part) - shift) / scale
        return scaled


def _statistics(
    X: Any, parts: list[NDArray[np.intp]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return each channel's mean and standard deviation, of shape (n_chans, 1)."""
    n = sum(map(len, parts)) * X.shape[2]
    # Counted from a value of the channel itself, so that rounding makes neither a large
    # offset nor a constant channel vary.
    first = _read(X, parts[0][:1])[0, :, :1]
    mean = first + sum(_sums(_read(X, part) - first) for part in parts) / n
    var = sum(_sums((_read(X, part) - mean) ** 2) for part in parts) / n
    rounding = n * np.finfo(np.float64).eps * mean  # the bound of StandardScaler
    return mean, np.where(var > rounding**2, np.sqrt(var), 1.0)


def _read(X: Any, rows: NDArray[np.intp]) -> NDArray[np.float64]:
    return np.asarray(X[rows]).astype(np.float64)


def _sums(windows: NDArray[np.float64]) -> NDArray[np.float64]:
    return windows.sum(axis=(0, 2))[:, None]
