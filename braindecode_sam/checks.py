"""Checks of EEG windows and targets, made before any training."""

from __future__ import annotations

import reprlib
import warnings
from numbers import Number
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, DTypeLike, NDArray
from sklearn.utils import check_array

# Batch normalization adds 1e-3 or 1e-5 to variances; optimizers' rates suit about 1.
SMALLEST_SPREAD, LARGEST_SPREAD = 1e-3, 1e5
BLOCK = 256  # windows looked at together, to bound the memory of a check


def check_windows(
    X: ArrayLike, y: ArrayLike | None = None, groups: ArrayLike | None = None
) -> None:
    """Check EEG windows, their targets and their subjects.

    Parameters
    ----------
    X : array-like of shape (n_windows, n_chans, n_times)
        EEG.
    y : array-like of shape (n_windows,) or (n_windows, n_outputs), or None
        Targets.
    groups : array-like of shape (n_windows,) or None
        Subject of each window.

    Raises
    ------
    ValueError
        If `X` is not three-dimensional or empty, lengths differ, a value is not
        finite, a target is constant or a subject is missing.

    Examples
    --------
    >>> import numpy as np
    >>> from braindecode_sam.checks import check_windows
    >>> check_windows(np.zeros((2, 4, 100)), y=[0.4, 0.6], groups=["a", "b"])
    >>> check_windows(np.zeros((2, 4, 100)), y=[0.4])
    Traceback (most recent call last):
    ValueError: X, y and groups must have the same length, got X: 2, y: 1
    """
    _check_shape(X)
    check_same_length(X=X, y=y, groups=groups)
    _check_finite_windows(X)
    if y is not None:
        check_targets(y)
    if groups is not None:
        check_groups(groups)


def _check_shape(X: ArrayLike) -> None:
    shape = np.shape(X)
    if len(shape) != 3 or 0 in shape:
        raise ValueError(
            "X must have the shape (n_windows, n_chans, n_times) and no empty"
            f" dimension, got {tuple(shape)}"
        )


def check_same_length(**named: Any) -> None:
    """Check that all arguments that are not None have one length."""
    lengths = {
        name: _length(name, value) for name, value in named.items() if value is not None
    }
    if len(set(lengths.values())) > 1:
        got = ", ".join(f"{name}: {length}" for name, length in lengths.items())
        raise ValueError(f"X, y and groups must have the same length, got {got}")


def _length(name: str, value: Any) -> int:
    try:
        return len(value)
    except TypeError:
        raise TypeError(f"{name} must have a length, got {value!r}") from None


def as_numbers(
    name: str, values: ArrayLike, dtype: DTypeLike | None = "float64"
) -> NDArray[Any]:
    """Turn an array-like into real numbers; raise instead of guessing.

    Parameters
    ----------
    name : str
        Of the argument.
    values : array-like
        Booleans, integers or floats. Text that reads like a number is refused, and so
        is what would be cut off, an imaginary part or what exceeds the dtype.
    dtype : str, numpy.dtype or None, default="float64"
        To turn them into; None leaves it.

    Returns
    -------
    numbers : ndarray
        `values` itself if it is such an array.
    """
    try:
        array = check_array(
            values, dtype=None, ensure_2d=False, allow_nd=True, ensure_min_samples=0,
            ensure_min_features=0, ensure_all_finite=False, input_name=name,
        )  # fmt: skip
        is_text = (isinstance(value, (str, bytes)) for value in array.flat)
        if array.dtype == object and not any(is_text):
            array = array.astype(float)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{name} must hold numbers, got {_brief(values)}") from None
    if array.dtype.kind not in "biuf":
        raise ValueError(
            f"{name} must hold numbers, got {array.dtype} {_brief(values)}"
        )
    # What becomes infinite, or a quiet NaN, is refused by name.
    with np.errstate(over="ignore", invalid="ignore"):
        return array if dtype is None else array.astype(dtype, copy=False)


def _brief(values: Any) -> str:
    short = reprlib.Repr()
    short.maxother = short.maxstring = 200
    return short.repr(values)


def as_columns(name: str, y: ArrayLike) -> NDArray[np.float64]:
    """Turn targets or predictions into real numbers, a column for each output."""
    numbers = as_numbers(name, y)
    if numbers.ndim not in (1, 2) or numbers.size == 0:
        raise ValueError(
            f"{name} must have the shape (n_samples,) or (n_samples, n_outputs) and not"
            f" be empty, got {numbers.shape}"
        )
    return numbers.reshape(len(numbers), -1)


def check_targets(y: ArrayLike) -> None:
    """Check that targets are finite numbers that vary."""
    columns = as_columns("y", y)
    wrong = np.flatnonzero(~np.isfinite(columns).all(axis=1))
    if len(wrong):
        raise ValueError(
            f"y must be finite, got {columns[wrong[0]]} for window {wrong[0]}"
            f" ({len(wrong)} of {len(columns)} windows)"
        )
    constant = np.flatnonzero(are_constant(columns))
    if len(constant):
        raise ValueError(
            f"y is constant (output {constant[0]} is {columns[0, constant[0]]} in all"
            f" {len(columns)} windows); expected targets that vary"
        )


def is_missing_a_column(y_pred: Any, y_true: Any) -> bool:
    """Tell whether a loss would compare each target with every prediction."""
    return np.ndim(y_true) == 1 and np.shape(y_pred) == (len(y_true), 1)


def check_scale(X: Any) -> None:
    """Warn of windows whose unit is probably not the one that networks expect.

    Parameters
    ----------
    X : array-like of shape (n_windows, n_chans, n_times)
        EEG; of large ones, some windows are looked at.
    """
    few = as_numbers("X", np.asarray(X[:: -(-len(X) // BLOCK)]))
    spreads = few.std(axis=-1)
    spread = float(np.median(spreads[spreads > 0])) if spreads.any() else 0.0
    if 0 < spread < SMALLEST_SPREAD or spread > LARGEST_SPREAD:
        like = "as EEG in volts" if spread < SMALLEST_SPREAD else "far more than EEG"
        warnings.warn(
            f"X has a standard deviation of {spread:.2g} over time, {like}; networks"
            " expect about 0.1 to 100. Give them microvolts (1e6 times volts), or"
            " standardize.",
            stacklevel=3,
        )


def are_constant(columns: NDArray[Any]) -> NDArray[np.bool_]:
    """Tell for each column whether all of its values are the same."""
    # Not by the standard deviation, which rounding keeps from being 0, nor by the
    # range, which can overflow.
    return np.all(columns == columns[0], axis=0)


def _check_finite_windows(X: Any) -> None:
    for start in range(0, len(X), BLOCK):
        check_finite(as_numbers("X", X[start : start + BLOCK], None), start)


def check_finite(block: NDArray[Any], start: int) -> None:
    """Check windows of which the first is number `start`, or that one alone."""
    if not np.isfinite(block).all():
        axes = tuple(range(1, block.ndim)) if block.ndim == 3 else None
        wrong = np.flatnonzero(~np.isfinite(block).all(axis=axes))
        raise ValueError(
            f"X must be finite, but window {start + wrong[0]} holds NaN or infinite"
            " values. Interpolate or leave out what the recording does not have."
        )


def check_groups(groups: Any) -> NDArray[Any]:
    """Check that groups name a subject for every window; give them as an array.

    Parameters
    ----------
    groups : array-like of shape (n_windows,)
        Subjects: all text or all numbers. NumPy would make the text "1" of the number
        1 beside text, and "nan" of a missing value.

    Returns
    -------
    groups : ndarray of shape (n_windows,)
        The same.
    """
    # Not np.asarray, which makes one kind of several.
    labels = np.fromiter(groups, dtype=object, count=_length("groups", groups))
    missing = np.flatnonzero(pd.isna(labels))
    if len(missing):
        raise ValueError(
            "groups must name a subject for every window, got"
            f" {labels[missing[0]]!r} for window {missing[0]}"
        )
    for i, label in enumerate(labels):
        accepted = isinstance(label, (str, Number, np.generic))
        if not accepted or isinstance(label, str) != isinstance(labels[0], str):
            raise ValueError(
                "groups must have the shape (n_windows,) and be all text or all"
                f" numbers, got {label!r} for window {i}"
            )
    array = np.asarray(groups)
    if array.shape != labels.shape:
        raise ValueError(
            f"groups must have the shape (n_windows,), got {type(groups).__name__}"
            f" {_brief(groups)}"
        )
    return array
