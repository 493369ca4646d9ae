"""Conversion of windows to the arrays that scikit-learn splits."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mne
import numpy as np
import pandas as pd
from braindecode.datasets import BaseConcatDataset
from numpy.typing import ArrayLike, DTypeLike, NDArray

from braindecode_sam._checks import (
    as_numbers,
    as_targets,
    check_groups,
    check_same_length,
    check_scale,
    check_shape,
    check_windows,
)
from braindecode_sam.datasets._channels import MICROVOLTS, in_volts, input_channels

log = logging.getLogger(__name__)


def to_arrays(
    data: Any,
    y: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    *,
    target: str | list[str] = "target",
    subject: str = "subject",
    out: str | os.PathLike[str] | None = None,
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Convert windows to X, y and groups for ``cross_validate``.

    Parameters
    ----------
    data : mne.Epochs, braindecode BaseConcatDataset or array-like
        Epochs with metadata, a windows dataset, or an array of shape
        (n_windows, n_chans, n_times).
    y : array-like of shape (n_windows,) or (n_windows, n_outputs), optional
        Targets, either numbers or text labels of shape (n_windows,). Required for an
        array. For other data, it overrides `target`.
    groups : array-like of shape (n_windows,), optional
        Subject of each window. Required for an array. For other data, it overrides
        `subject`.
    target : str or list of str, default="target"
        Columns of the metadata that hold the targets.
    subject : str, default="subject"
        Column of the metadata, or of a dataset's description, that names the subject.
    out : path-like, optional
        File with the suffix ``.npy`` to which the windows are written one by one, for
        data larger than memory. It replaces an existing file when it is complete.

    Returns
    -------
    X : ndarray of shape (n_windows, n_chans, n_times), float32
        EEG. Epochs, whose EEG is in volts, are converted to microvolts. Datasets and
        arrays keep their unit, with a warning if it seems to be volts. Channels that
        are no input of a model, such as triggers, are left out, and a log line at level
        INFO names them. A float32 array is not copied. With `out`, X is the file,
        ``numpy.load(out, mmap_mode="r")``.
    y : ndarray of shape (n_windows,) or (n_windows, n_outputs), float32 or str
        Targets, numbers in float32 or labels as text of a fixed width.
    groups : ndarray of shape (n_windows,)
        Subjects, as text of a fixed width or numbers, never Python objects. Hence
        ``numpy.load`` reads them from a ``numpy.savez`` file without pickle.

    Raises
    ------
    ValueError
        If a column is missing, lengths differ, a value is not finite, the target is
        constant, a label or a subject is missing, or the targets mix text and numbers.
        Also if values are masked, or float32 cannot tell targets apart.

    See Also
    --------
    SubjectWindows : Array of windows that carries the subjects.

    Notes
    -----
    Text is never converted to numbers. If a table holds numbers as text, such as "0.5",
    they become labels, and a regression fails later. Convert such a column with
    :func:`pandas.to_numeric` first.

    :class:`braindecode_sam.nets.Classifier` and scikit-learn's classifiers accept text
    labels. :class:`braindecode.EEGClassifier` needs integers, such as those of
    :class:`sklearn.preprocessing.LabelEncoder`.

    Examples
    --------
    >>> from braindecode_sam.datasets import simulate_response_times, to_arrays
    >>> epochs = simulate_response_times(2, 3, n_chans=8, random_state=0)
    >>> X, y, groups = to_arrays(epochs, target="response_time")
    >>> X.shape, str(X.dtype), y.shape
    ((6, 8, 500), 'float32', (6,))
    >>> epochs.metadata["hand"] = ["left", "right", "left", "left", "right", "left"]
    >>> to_arrays(epochs, target="hand")[1]
    array(['left', 'right', 'left', 'left', 'right', 'left'], dtype='<U5')
    """
    if out is not None and not str(out).endswith(".npy"):
        raise ValueError(f"out must end in .npy, got {str(out)!r}")
    if isinstance(data, mne.BaseEpochs):
        data = data.copy()
        data.drop_bad(verbose="error")  # MNE rejects epochs when they are first read
    if y is None or groups is None:
        if isinstance(data, mne.BaseEpochs):
            table = data.metadata
        elif isinstance(data, BaseConcatDataset):
            table = pd.concat([_metadata_of(part) for part in data.datasets])
        else:
            raise ValueError(
                f"{'y' if y is None else 'groups'} must be given for an array, got"
                " None; call to_arrays(X, y, groups)"
            )
        if table is None:
            raise ValueError(
                f"data must have metadata with the columns {target!r} and {subject!r},"
                " got None; set epochs.metadata, or pass y and groups"
            )
        y = _column(table, target, "target") if y is None else y
        groups = _column(table, subject, "subject") if groups is None else groups
    is_array = not isinstance(data, (mne.BaseEpochs, BaseConcatDataset))
    if is_array:
        check_shape(data)
    y, groups = as_targets(y), check_groups(groups)
    check_same_length(X=data, y=y, groups=groups)
    if is_array and out is None:
        X = as_numbers("X", data, np.float32)  # without a copy, if possible
    else:
        X = _stack(_each_window(data), len(data), out)
    check_windows(X)
    check_scale(X)
    return X, y, groups


def _each_window(data: Any) -> Iterator[NDArray[Any]]:
    """Yield windows, those of epochs in microvolts, without triggers."""
    is_epochs = isinstance(data, mne.BaseEpochs)
    if not (is_epochs or isinstance(data, BaseConcatDataset)):
        yield from (as_numbers("X", data[i], np.float32) for i in range(len(data)))
        return
    info = data.info if is_epochs else _info_of(data.datasets[0])
    picks: Any = slice(None)
    scale: Any = 1.0
    if info is not None:
        picks = input_channels(info)
        left_out = [n for i, n in enumerate(info["ch_names"]) if i not in picks]
        if left_out:
            log.info("left out the channels %s", ", ".join(left_out))
        if is_epochs:
            scale = np.ones((len(info["ch_names"]), 1))
            scale[in_volts(info)] = MICROVOLTS
            scale = scale[picks]
    for i, item in enumerate(data if is_epochs else range(len(data))):
        window = item if is_epochs else np.asarray(data[i][0])
        yield scale * window[picks]


def _stack(
    windows: Iterator[NDArray[Any]], n: int, out: str | os.PathLike[str] | None
) -> NDArray[np.float32]:
    """Join windows in an array or, one by one, in a file that replaces another."""
    first = next(windows, None)
    if first is None:
        raise ValueError("data must hold at least one window, got none")
    shape, part = (n, *first.shape), Path(f"{out}.part")
    X: Any = np.empty(shape, np.float32) if out is None else None
    try:
        if out is not None:
            X = np.lib.format.open_memmap(part, "w+", np.float32, shape)
        for i, window in enumerate(itertools.chain([first], windows)):
            X[i] = window
        if out is not None:
            X.flush()
            os.replace(part, out)  # arrays that are open keep the old file
            X = np.load(out, mmap_mode="r")
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    stacked: NDArray[np.float32] = X
    return stacked


def _metadata_of(windows: Any) -> pd.DataFrame:
    """Return the metadata of windows, and of their description what they lack.

    braindecode's ``get_metadata`` lets the description replace their targets.
    """
    source = windows.windows if hasattr(windows, "windows") else windows
    table = source.metadata.copy()
    for name, value in windows.description.items():
        if name not in table:
            table[name] = [value] * len(table)
    return table


def _info_of(windows: Any) -> Any:
    """Return the channels of a windows dataset of braindecode, or None."""
    source = getattr(windows, "windows", None) or getattr(windows, "raw", None)
    return getattr(source, "info", None)


def _column(table: Any, name: str | list[str], argument: str) -> NDArray[Any]:
    names = [name] if isinstance(name, str) else list(name)
    missing = [n for n in names if n not in table.columns]
    if missing:
        raise ValueError(
            f"{argument} must name columns among {list(table.columns)}, got"
            f" {missing[0]!r}"
        )
    return table[name].to_numpy()


class SubjectWindows:
    """Array of windows that carries the subject of each window.

    ``cross_validate`` passes the rows of X in a fold to a net, but not their subjects,
    so a split *inside* the fold cannot separate subjects. This class carries them along
    for :class:`braindecode_sam.model_selection.SubjectSplit`. Indexing rows does not
    copy the data.

    Parameters
    ----------
    X : ndarray of shape (n_windows, n_chans, n_times)
        EEG.
    groups : array-like of shape (n_windows,)
        Subject of each window.

    Attributes
    ----------
    groups : ndarray of shape (n_windows,)
        Subject of each window after indexing, as text of a fixed width or numbers.

    See Also
    --------
    braindecode_sam.model_selection.SubjectSplit : Validation split by subject.
    SubjectScaler : Standardize the windows of each subject.

    Examples
    --------
    >>> import numpy as np
    >>> from braindecode_sam.datasets import SubjectWindows
    >>> windows = SubjectWindows(np.zeros((3, 2, 100)), ["a", "a", "b"])
    >>> windows[[0, 2]].shape, windows[[0, 2]].groups.tolist()
    ((2, 2, 100), ['a', 'b'])
    >>> windows[0].shape
    (2, 100)
    """

    def __init__(self, X: Any, groups: ArrayLike) -> None:
        if isinstance(X, mne.BaseEpochs):
            raise TypeError(
                f"X must be an array, got {type(X).__name__}, which holds volts; use"
                " SubjectWindows(to_arrays(epochs, y, groups)[0], groups)"
            )
        if len(np.shape(X)) != 3:
            raise ValueError(
                "X must have the shape (n_windows, n_chans, n_times), got"
                f" {np.shape(X)}"
            )
        check_same_length(X=X, groups=groups)
        self._X = X if hasattr(X, "shape") else np.asarray(X)
        self._all_groups = check_groups(groups)
        self._rows = np.arange(len(X))

    @property
    def groups(self) -> NDArray[Any]:
        """Subject of each window, an ndarray of shape (n_windows,)."""
        return self._all_groups[self._rows]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape, (n_windows, n_chans, n_times)."""
        return (len(self._rows), *self._X.shape[1:])

    @property
    def ndim(self) -> int:
        """Number of dimensions, 3."""
        return self._X.ndim

    @property
    def dtype(self) -> Any:
        """Data type."""
        return self._X.dtype

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, tuple):  # scikit-learn indexes X[rows, ...]
            if key[1:] != (Ellipsis,):
                return np.asarray(self)[key]
            key = key[0]
        rows = self._rows[key]
        if np.ndim(rows) == 0:
            window = self._X[rows]
            # joblib shares large arrays read-only with its workers, and torch warns.
            is_read_only = isinstance(window, np.ndarray) and not window.flags.writeable
            return window.copy() if is_read_only else window
        taken = object.__new__(type(self))
        taken.__dict__ |= self.__dict__ | {"_rows": rows}
        return taken

    def __array__(
        self, dtype: DTypeLike | None = None, copy: bool | None = None
    ) -> NDArray[Any]:
        return np.asarray(self._X[self._rows], dtype=dtype)

    def __repr__(self) -> str:
        n_subjects = len(np.unique(self.groups))
        return f"<SubjectWindows of shape {self.shape}, {n_subjects} subjects>"
