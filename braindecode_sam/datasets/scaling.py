"""Standardization of windows by subject."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, TransformerMixin

from braindecode_sam._arguments import check_choice
from braindecode_sam._checks import check_groups, check_same_length, check_windows
from braindecode_sam.datasets.arrays import SubjectWindows

BLOCK = 16  # windows scaled at a time, to bound the memory of float64


class SubjectScaler(TransformerMixin, BaseEstimator):
    """Standardize the windows of each subject by the statistics of that subject.

    Every channel of a subject is centered by its mean and divided by its standard
    deviation, both over time and over all windows of the subject in the same call.

    ``fit`` learns nothing, and neither targets nor other subjects are used, so no
    information leaks from a test fold. The statistics come from the windows of the same
    call. A prediction therefore depends on which other windows of the subject are
    passed, and a single window is standardized by itself. Pass all windows of a subject
    together, for training and for prediction.

    Parameters
    ----------
    with_mean : bool, default=True
        Whether to subtract the mean.
    with_std : bool, default=True
        Whether to divide by the standard deviation. A channel that is constant in a
        subject is divided by 1.

    See Also
    --------
    SubjectWindows : Array of windows that carries the subjects through a pipeline.
    sklearn.preprocessing.StandardScaler : Uses the statistics of the training fold.

    Notes
    -----
    The statistics are accumulated in float64, the mean before the variance. In addition
    to the scaled windows, only a few windows at a time are held in memory.

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

    In a pipeline, SubjectWindows carry the subjects:

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

    # With scikit-learn's metadata routing, groups reach the scaler without a request.
    __metadata_request__fit = {"groups": True}  # noqa: RUF012, scikit-learn's form
    __metadata_request__transform = {"groups": True}  # noqa: RUF012

    def __init__(self, *, with_mean: bool = True, with_std: bool = True) -> None:
        self.with_mean = with_mean
        self.with_std = with_std

    def fit(
        self, X: Any, y: ArrayLike | None = None, groups: ArrayLike | None = None
    ) -> SubjectScaler:
        """Do nothing and return the scaler, for compatibility with scikit-learn."""
        return self

    def transform(self, X: Any, groups: ArrayLike | None = None) -> Any:
        """Standardize each subject's windows.

        Parameters
        ----------
        X : SubjectWindows or array-like of shape (n_windows, n_chans, n_times)
            EEG. It is not modified.
        groups : array-like of shape (n_windows,) or None
            Subject of each window. Required for an array. SubjectWindows carry them.

        Returns
        -------
        scaled : SubjectWindows or ndarray of shape (n_windows, n_chans, n_times)
            SubjectWindows if X is one, else an array. The dtype is that of X if it is a
            floating-point type, else float64.

        Raises
        ------
        ValueError
            If groups are missing for an array or others than those of SubjectWindows,
            a value is not finite, or an option is not a bool.
        """
        for option in ("with_mean", "with_std"):
            check_choice(option, getattr(self, option), (True, False))
        if isinstance(X, SubjectWindows):
            own = X.groups
            if groups is not None and not np.array_equal(check_groups(groups), own):
                raise ValueError(
                    "groups must be None for SubjectWindows, or the subjects that they"
                    f" carry, got {np.unique(check_groups(groups)).tolist()[:5]}"
                )
            return SubjectWindows(self._scale(X, X.groups), X.groups)
        if groups is None:
            raise ValueError(
                "SubjectScaler needs the subject of each window, got"
                f" {type(X).__name__} without groups; pass X=SubjectWindows(X, groups)"
                " (braindecode_sam.datasets), also to a Pipeline, or call"
                " transform(X, groups)"
            )
        return self._scale(X if hasattr(X, "shape") else np.asarray(X), groups)

    def fit_transform(
        self, X: Any, y: ArrayLike | None = None, groups: ArrayLike | None = None
    ) -> Any:
        """Standardize each subject's windows, as :meth:`transform` does without `y`."""
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
        check_windows(X)
        check_same_length(X=X, groups=groups)
        dtype = np.asarray(X[:1]).dtype
        scaled = np.empty(X.shape, dtype if dtype.kind == "f" else np.float64)
        _, subject_of = np.unique(check_groups(groups), return_inverse=True)
        for subject in range(subject_of.max() + 1):
            rows = np.flatnonzero(subject_of == subject)
            parts = np.split(rows, range(BLOCK, len(rows), BLOCK))
            mean, std = _statistics(X, parts)
            shift = mean if self.with_mean else 0.0
            scale = std if self.with_std else 1.0
            for part in parts:
                scaled[part] = (_read(X, part) - shift) / scale
        return scaled


def _statistics(
    X: Any, parts: list[NDArray[np.intp]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean and standard deviation of channels, of shape (n_chans, 1)."""
    n = sum(map(len, parts)) * X.shape[2]
    # Relative to the channel's first sample, so that rounding adds no variance to a
    # constant channel or to one with a large offset.
    first = _read(X, parts[0][:1])[0, :, :1]
    over: Any = {"axis": (0, 2), "keepdims": True}
    mean = first + sum((_read(X, part) - first).sum(**over)[0] for part in parts) / n
    var = sum(((_read(X, part) - mean) ** 2).sum(**over)[0] for part in parts) / n
    rounding = n * np.finfo(np.float64).eps * mean  # the bound of StandardScaler
    return mean, np.where(var > rounding**2, np.sqrt(var), 1.0)


def _read(X: Any, rows: NDArray[np.intp]) -> NDArray[np.float64]:
    return np.asarray(X[rows]).astype(np.float64)
