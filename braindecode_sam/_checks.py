"""Checks of EEG windows and targets, run before any training."""

from __future__ import annotations

import reprlib
import warnings
from collections.abc import Sequence
from numbers import Number
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, DTypeLike, NDArray
from sklearn.utils import check_array

# BatchNorm adds an eps of 1e-3 or 1e-5 to variances; learning rates suit a scale of 1.
SMALLEST_SPREAD, LARGEST_SPREAD = 1e-3, 1e5
BLOCK = 256  # windows checked at a time, to bound the memory


def check_windows(
    X: ArrayLike, y: ArrayLike | None = None, groups: ArrayLike | None = None
) -> None:
    """Check EEG windows, their targets and their subjects.

    Parameters
    ----------
    X : array-like of shape (n_windows, n_chans, n_times)
        EEG.
    y : array-like of shape (n_windows,) or (n_windows, n_outputs), or None
        Targets, either numbers or text labels of shape (n_windows,). Text is never
        converted to numbers: "0.5" is a label.
    groups : array-like of shape (n_windows,) or None
        Subject of each window.

    Raises
    ------
    ValueError
        If `X` is not three-dimensional or empty, lengths differ, a value is not
        finite, a target is constant, a label or a subject is missing, or `y` holds
        both text and numbers.
    """
    _check_shape(X)
    check_same_length(X=X, y=y, groups=groups)
    _check_finite_windows(X)
    if y is not None:
        check_numbers_or_labels(y)
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
    """Check that all arguments have the same length; skip those that are None."""
    lengths = {
        name: _length(name, value) for name, value in named.items() if value is not None
    }
    if len(set(lengths.values())) > 1:
        got = ", ".join(f"{name}: {length}" for name, length in lengths.items())
        *first, last = named
        raise ValueError(
            f"{', '.join(first)} and {last} must have the same length, got {got}"
        )


def _length(name: str, value: Any) -> int:
    try:
        return len(value)
    except TypeError:
        raise TypeError(f"{name} must have a length, got {value!r}") from None


def check_disjoint(test_folds: Sequence[NDArray[Any]]) -> None:
    """Check that no window is in several test folds, or several times in one."""
    windows, counts = np.unique(np.concatenate(test_folds), return_counts=True)
    if (counts > 1).any():
        shared = windows[counts > 1][0]
        where = [
            i for i, rows in enumerate(test_folds) for row in rows if row == shared
        ]
        raise ValueError(
            f"test folds must not share windows, got window {shared} in test folds"
            f" {where[0] + 1} and {where[1] + 1}; use a splitter that tests each window"
            " at most once, such as GroupKFold, and pass repeated splits one repeat at"
            " a time"
        )


def as_numbers(
    name: str, values: ArrayLike, dtype: DTypeLike | None = "float64"
) -> NDArray[Any]:
    """Convert an array-like to real numbers; raise instead of guessing.

    Parameters
    ----------
    name : str
        Name of the argument, for the error message.
    values : array-like
        Booleans, integers or floats. Text that reads like a number and complex numbers
        raise.
    dtype : str, numpy.dtype or None, default="float64"
        Data type of the result. None keeps that of `values`.

    Returns
    -------
    numbers : ndarray
        `values` itself if it needs no conversion.
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
    # Callers check for values that became infinite or NaN, and name them.
    with np.errstate(over="ignore", invalid="ignore"):
        return array if dtype is None else array.astype(dtype, copy=False)


def _brief(values: Any) -> str:
    short = reprlib.Repr()
    short.maxother = short.maxstring = 200
    return short.repr(values)


def as_columns(name: str, y: ArrayLike) -> NDArray[np.float64]:
    """Convert targets or predictions to real numbers, one column for each output."""
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


def has_text(values: Any) -> bool:
    """Return whether any of the values is text."""
    if getattr(getattr(values, "dtype", None), "kind", "O") in "biufc":
        return False
    try:
        # As objects: among text, NumPy would convert numbers to text.
        objects = np.asarray(values, dtype=object)
    except (TypeError, ValueError):
        return False  # ragged or not an array; as_numbers raises
    return any(isinstance(value, str) for value in objects.flat)


def as_numbers_or_labels(name: str, y: ArrayLike) -> NDArray[Any]:
    """Convert numeric targets without a change of dtype, and labels to text."""
    return as_labels(name, y) if has_text(y) else as_numbers(name, y, None)


def as_targets(y: ArrayLike) -> NDArray[Any]:
    """Convert numeric targets to float32, and labels to text of a fixed width."""
    numbers = as_numbers_or_labels("y", y)
    if numbers.dtype.kind == "U":
        return numbers
    targets = as_numbers("y", numbers, np.float32)
    if numbers.dtype.kind in "iu" and (targets.astype(float) != numbers).any():
        raise ValueError(
            "y must hold integers that float32 represents exactly, up to 2**24, or"
            f" text labels, got {numbers[targets.astype(float) != numbers][0]}"
        )
    return targets


def as_labels(name: str, labels: Any) -> NDArray[np.str_]:
    """Convert text labels to text of a fixed width.

    Parameters
    ----------
    name : str
        Name of the argument, for the error message.
    labels : array-like of str of shape (n_windows,)
        A label for each window.

    Returns
    -------
    labels : ndarray of str of shape (n_windows,)
        The same labels.
    """
    objects = np.asarray(labels, dtype=object)
    if objects.ndim != 1:
        raise ValueError(
            f"{name} must have the shape (n_windows,) where it holds text, got"
            f" {objects.shape}"
        )
    return as_names(name, objects, "a label")


def check_numbers_or_labels(y: ArrayLike) -> None:
    """Check numeric targets or text labels."""
    if has_text(y):
        check_labels(y)
    else:
        check_targets(y)


def check_labels(y: ArrayLike) -> None:
    """Check that every window has a text label, and that the labels vary."""
    labels = as_labels("y", y)
    if are_constant(labels):
        raise ValueError(
            f"y is constant ({str(labels[0])!r} in all {len(labels)} windows); expected"
            " targets that vary"
        )


def are_probabilities(y_pred: NDArray[Any], axis: int = -1) -> bool:
    """Return whether an axis holds probabilities, ignoring values that are not finite.

    Parameters
    ----------
    y_pred : ndarray
        Output of a classifier.
    axis : int, default=-1
        Axis of the classes.
    """
    y_pred = np.moveaxis(y_pred, axis, -1)
    finite = y_pred[np.isfinite(y_pred).all(axis=-1)]
    return bool((finite >= 0).all() and np.allclose(finite.sum(axis=-1), 1, atol=1e-3))


def check_scale(X: Any) -> None:
    """Warn of windows that are probably not in the unit that models expect.

    Parameters
    ----------
    X : array-like of shape (n_windows, n_chans, n_times)
        EEG. A sample of the windows is checked if there are many.
    """
    few = as_numbers("X", np.asarray(X[:: -(-len(X) // BLOCK)]))
    spreads = few.std(axis=-1)
    spread = float(np.median(spreads[spreads > 0])) if spreads.any() else 0.0
    if 0 < spread < SMALLEST_SPREAD or spread > LARGEST_SPREAD:
        like = "like EEG in volts" if spread < SMALLEST_SPREAD else "far more than EEG"
        warnings.warn(
            f"X has a standard deviation of {spread:.2g} over time, {like}; models"
            " expect about 0.1 to 100. Convert to microvolts (1e6 times volts) or"
            " standardize.",
            stacklevel=3,
        )


def are_constant(columns: NDArray[Any]) -> NDArray[np.bool_]:
    """Return for each column whether all its values are equal."""
    # Rounding keeps the standard deviation from being 0, and the range can overflow.
    return np.all(columns == columns[0], axis=0)


def _check_finite_windows(X: Any) -> None:
    for start in range(0, len(X), BLOCK):
        check_finite(as_numbers("X", X[start : start + BLOCK], None), start)


def check_finite(block: NDArray[Any], start: int) -> None:
    """Check a block of windows that begins at window `start`, or window `start`."""
    if not np.isfinite(block).all():
        axes = tuple(range(1, block.ndim)) if block.ndim == 3 else None
        wrong = np.flatnonzero(~np.isfinite(block).all(axis=axes))
        raise ValueError(
            f"X must be finite, but window {start + wrong[0]} holds NaN or infinite"
            " values; interpolate or drop the missing samples"
        )


def check_groups(groups: Any) -> NDArray[Any]:
    """Check that groups name a subject for every window, and return them as an array.

    Parameters
    ----------
    groups : array-like of shape (n_windows,)
        Subjects, either all text or all numbers.

    Returns
    -------
    groups : ndarray of shape (n_windows,)
        The same subjects. Text has a fixed width and integers are not Python objects,
        so that ``numpy.load`` reads them without pickle.
    """
    return as_names("groups", groups, "a subject")


def as_names(name: str, names: Any, meaning: str) -> NDArray[Any]:
    """Check names of subjects, recordings or classes, and return them as an array.

    Among text, NumPy would convert the number 1 to "1" and a missing value to "nan". It
    keeps text from pandas as Python objects, which ``numpy.load`` refuses.

    Parameters
    ----------
    name : str
        Name of the argument, for the error message.
    names : array-like of shape (n_windows,)
        All text or all numbers.
    meaning : str
        What a name stands for, with an article: "a subject".

    Returns
    -------
    names : ndarray of shape (n_windows,)
        The same names, never of dtype object.
    """
    # np.asarray would convert mixed types to a common one.
    objects = np.fromiter(names, dtype=object, count=_length(name, names))
    missing = np.flatnonzero(pd.isna(objects))
    if len(missing):
        raise ValueError(
            f"{name} must name {meaning} for every window, got"
            f" {objects[missing[0]]!r} for window {missing[0]}"
        )
    for i, value in enumerate(objects):
        is_accepted = isinstance(value, (str, Number, np.generic))
        if not is_accepted or isinstance(value, str) != isinstance(objects[0], str):
            raise ValueError(
                f"{name} must have the shape (n_windows,) and be all text or all"
                f" numbers, got {value!r} for window {i}"
            )
    array = np.asarray(names)
    if array.shape != objects.shape:
        raise ValueError(
            f"{name} must have the shape (n_windows,), got {type(names).__name__}"
            f" {_brief(names)}"
        )
    if array.dtype.kind in ("O", "T"):
        array = np.array(objects.tolist())
    is_plain = array.dtype.kind in "biufU"  # others, such as dates, are not converted
    if array.dtype.kind in "Oc" or (is_plain and array.tolist() != objects.tolist()):
        raise ValueError(
            f"{name} must be text or numbers that NumPy stores unchanged, got"
            f" {_brief(objects.tolist())}"
        )
    return array
