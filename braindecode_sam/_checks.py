"""Checks of EEG windows and targets, run before any training."""

from __future__ import annotations

import reprlib
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, DTypeLike, NDArray

# BatchNorm adds an eps of 1e-3 or 1e-5 to variances; learning rates suit a scale of 1.
SMALLEST_SPREAD, LARGEST_SPREAD = 1e-3, 1e5
BLOCK = 256  # windows checked at a time, to bound the memory


# Windows


def check_shape(X: ArrayLike) -> None:
    """Check that there are windows, channels and samples."""
    shape = np.shape(X)
    if len(shape) != 3 or 0 in shape:
        raise ValueError(
            "X must have the shape (n_windows, n_chans, n_times) and no empty"
            f" dimension, got {tuple(shape)}"
        )


def check_windows(X: Any) -> None:
    """Check the shape of EEG windows, and that all values are finite numbers."""
    check_shape(X)
    for start in range(0, len(X), BLOCK):
        check_finite(X[start : start + BLOCK], start)


def check_finite(windows: Any, start: int) -> None:
    """Check windows of which the first has the number `start`."""
    is_finite = np.isfinite(as_numbers("X", windows, None)).reshape(len(windows), -1)
    if not is_finite.all():
        wrong = start + int(np.argmin(is_finite.all(axis=1)))
        raise ValueError(
            f"X must be finite, but window {wrong} holds NaN or infinite"
            " values; interpolate or drop the missing samples"
        )


def check_scale(X: Any) -> None:
    """Warn of windows that are probably not in the unit that models expect.

    A sample of the windows is checked if there are many.
    """
    few = as_numbers("X", X[:: -(-len(X) // BLOCK)])
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


def check_same_length(**named: Any) -> None:
    """Check that all arguments that are not None have the same length."""
    lengths = {name: len(value) for name, value in named.items() if value is not None}
    if len(set(lengths.values())) > 1:
        got = ", ".join(f"{name}: {length}" for name, length in lengths.items())
        raise ValueError(
            f"{' and '.join(lengths)} must have the same length, got {got}"
        )


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


# Numbers


def as_numbers(
    name: str, values: ArrayLike, dtype: DTypeLike | None = "float64"
) -> NDArray[Any]:
    """Convert an array-like to real numbers of a dtype, or None for their own.

    Booleans, integers and floats are numbers. Text that reads like a number and complex
    numbers raise. Numbers that the dtype cannot hold become infinite or NaN, and
    callers name them. `values` are not copied if they need no conversion.
    """
    if np.ma.is_masked(values):
        raise ValueError(
            f"{name} must have no masked values, got {np.ma.count_masked(values)}; fill"
            " them, or drop their windows"
        )
    try:
        array = np.asarray(values)
    except (TypeError, ValueError):  # ragged, or on another device
        raise ValueError(
            f"{name} must hold numbers, got {reprlib.repr(values)}"
        ) from None
    if array.dtype == object and not has_text(array):
        # From a table: None and pandas.NA become NaN, integers stay exact.
        array = np.array(np.where(pd.isna(array), np.nan, array).tolist())
    if array.dtype.kind not in "biuf":
        raise ValueError(
            f"{name} must hold numbers, got {array.dtype} {reprlib.repr(values)}"
        )
    with np.errstate(over="ignore", invalid="ignore"):
        return array if dtype is None else array.astype(dtype, copy=False)


def as_columns(name: str, y: ArrayLike) -> NDArray[np.float64]:
    """Convert targets or predictions to real numbers, one column for each output."""
    numbers = as_numbers(name, y)
    if numbers.ndim not in (1, 2) or numbers.size == 0:
        raise ValueError(
            f"{name} must have the shape (n_samples,) or (n_samples, n_outputs) and not"
            f" be empty, got {numbers.shape}"
        )
    return numbers.reshape(len(numbers), -1)


def are_constant(columns: NDArray[Any]) -> NDArray[np.bool_]:
    """Return for each column whether all its values are equal."""
    # Rounding keeps the standard deviation from being 0, and the range can overflow.
    return np.all(columns == columns[0], axis=0)


def are_probabilities(y_pred: NDArray[Any], axis: int = -1) -> bool:
    """Return whether an axis holds probabilities, where its values are finite."""
    y_pred = np.moveaxis(y_pred, axis, -1)
    finite = y_pred[np.isfinite(y_pred).all(axis=-1)]
    return bool((finite >= 0).all() and np.allclose(finite.sum(axis=-1), 1, atol=1e-3))


def check_targets(y: ArrayLike) -> NDArray[Any]:
    """Check that targets are finite numbers that vary; return them in their dtype."""
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
    return as_numbers("y", y, None)


def check_targets_or_labels(y: ArrayLike) -> NDArray[Any]:
    """Check numeric targets or text labels; return text in a fixed width."""
    if not has_text(y):
        return check_targets(y)
    labels = as_names("y", y, "a label")
    if are_constant(labels):
        raise ValueError(
            f"y is constant ({str(labels[0])!r} in all {len(labels)} windows); expected"
            " targets that vary"
        )
    return labels


def as_targets(y: ArrayLike) -> NDArray[Any]:
    """Check targets; return numbers in float32 and labels in a fixed width."""
    if has_text(y):
        return check_targets_or_labels(y)
    numbers = as_numbers("y", y, None)
    targets = as_numbers("y", numbers, np.float32)
    is_changed = as_numbers("y", targets, numbers.dtype) != numbers
    if numbers.dtype.kind in "iu" and is_changed.any():
        raise ValueError(
            "y must hold integers that float32 represents exactly, up to 2**24, or"
            f" text labels, got {numbers[is_changed][0]}"
        )
    check_float32(numbers)
    return check_targets(targets)


def check_float32(y: ArrayLike) -> None:
    """Check that targets differ by more than the rounding of float32."""
    columns = as_columns("y", y)
    with np.errstate(over="ignore", invalid="ignore"):  # callers name what is infinite
        error = np.abs(as_numbers("y", columns, np.float32) - columns).max(axis=0)
        lost = np.flatnonzero(np.isfinite(error) & (error > 1e-3 * np.ptp(columns, 0)))
    if len(lost):
        column = columns[:, lost[0]]
        raise ValueError(
            "y must hold numbers that float32 can tell apart, as nets train with it,"
            f" got {column.min()} to {column.max()}; subtract {column.mean():.0f}"
        )


# Names


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


def check_groups(groups: Any) -> NDArray[Any]:
    """Check that groups name a subject for every window; return them as an array."""
    return as_names("groups", groups, "a subject")


def as_names(name: str, names: Any, meaning: str) -> NDArray[Any]:
    """Check names, all text or all numbers; return them in an array without objects.

    Among text, NumPy would convert the number 1 to "1" and a missing value to "nan". It
    keeps text from pandas as Python objects, which ``numpy.load`` refuses. `meaning`
    says what a name stands for, with an article: "a subject".
    """
    if hasattr(names, "columns"):
        raise ValueError(
            f"{name} must be one column, got a table with the columns"
            f" {list(names.columns)}; pass the one that names {meaning}"
        )
    if not np.iterable(names):
        raise TypeError(f"{name} must name {meaning} for every window, got {names!r}")
    objects = np.fromiter(names, dtype=object)
    missing = np.flatnonzero(pd.isna(objects))
    if len(missing):
        raise ValueError(
            f"{name} must name {meaning} for every window, got"
            f" {objects[missing[0]]!r} for window {missing[0]}"
        )
    is_text = [isinstance(value, str) for value in objects]
    if len(set(is_text)) > 1:
        other = is_text.index(not is_text[0])
        raise ValueError(
            f"{name} must have the shape (n_windows,) and be all text or all"
            f" numbers, got {objects[other]!r} for window {other}"
        )
    array = np.asarray(names)
    if array.shape != objects.shape:
        raise ValueError(
            f"{name} must have the shape (n_windows,), got {type(names).__name__} of"
            f" shape {array.shape}: {reprlib.repr(names)}"
        )
    if array.dtype.kind in ("O", "T"):
        array = np.array(objects.tolist())
    is_plain = array.dtype.kind in "biufU"  # others, such as dates, are not converted
    if array.dtype.kind in "OSc" or (is_plain and array.tolist() != objects.tolist()):
        raise ValueError(
            f"{name} must be text or numbers that NumPy stores unchanged, got"
            f" {reprlib.repr(objects.tolist())}"
        )
    return array
