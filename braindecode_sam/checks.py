"""Checks of EEG windows and targets, made before any training."""

from __future__ import annotations

import reprlib
import warnings
from numbers import Integral, Number
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
        Targets: numbers, or text of shape (n_windows,) that labels the windows. Text
        is never read as numbers: "0.5" is a label.
    groups : array-like of shape (n_windows,) or None
        Subject of each window.

    Raises
    ------
    ValueError
        If `X` is not three-dimensional or empty, lengths differ, a value is not
        finite, a target is constant, a label or a subject is missing, or `y` holds
        both text and numbers.

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
    """Check that all arguments have one length; None is not looked at."""
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
    check_finite_columns("y", columns)
    constant = np.flatnonzero(are_constant(columns))
    if len(constant):
        raise ValueError(
            f"y is constant (output {constant[0]} is {columns[0, constant[0]]} in all"
            f" {len(columns)} windows); expected targets that vary"
        )


def check_finite_columns(
    name: str, columns: NDArray[np.float64], advice: str = ""
) -> None:
    """Check that targets or predictions are finite."""
    wrong = np.flatnonzero(~np.isfinite(columns).all(axis=1))
    if len(wrong):
        raise ValueError(
            f"{name} must be finite, got {columns[wrong[0]]} for window {wrong[0]}"
            f" ({len(wrong)} of {len(columns)} windows){advice}"
        )


def has_text(values: Any) -> bool:
    """Tell whether there is text among the values."""
    if getattr(getattr(values, "dtype", None), "kind", "O") in "biufc":
        return False
    try:
        # As objects: NumPy would make text of the numbers beside text.
        objects = np.asarray(values, dtype=object)
    except (TypeError, ValueError):
        return False  # ragged, or out of reach; as_numbers refuses it by name
    return any(isinstance(value, str) for value in objects.flat)


def as_numbers_or_labels(name: str, y: ArrayLike) -> NDArray[Any]:
    """Turn targets into numbers of their own kind, or labels into text."""
    return as_labels(name, y) if has_text(y) else as_numbers(name, y, None)


def as_targets(y: ArrayLike) -> NDArray[Any]:
    """Turn targets into float32, or labels into text of a fixed width."""
    numbers = as_numbers_or_labels("y", y)
    if numbers.dtype.kind == "U":
        return numbers
    targets = as_numbers("y", numbers, np.float32)
    if numbers.dtype.kind in "iu" and (targets.astype(float) != numbers).any():
        raise ValueError(
            "y holds integers that float32 cannot tell apart, such as"
            f" {numbers[targets.astype(float) != numbers][0]}; expected up to 2**24, or"
            " text labels"
        )
    return targets


def as_labels(name: str, labels: Any) -> NDArray[np.str_]:
    """Turn text labels into text of a fixed width.

    Parameters
    ----------
    name : str
        Of the argument.
    labels : array-like of str of shape (n_windows,)
        A label for each window.

    Returns
    -------
    labels : ndarray of str of shape (n_windows,)
        The same.
    """
    objects = np.asarray(labels, dtype=object)
    if objects.ndim != 1:
        raise ValueError(
            f"{name} must have the shape (n_windows,) where it holds text, got"
            f" {objects.shape}"
        )
    return as_names(name, objects, "a label")


def check_numbers_or_labels(y: ArrayLike) -> None:
    """Check targets, of which text is labels."""
    if has_text(y):
        check_labels(y)
    else:
        check_targets(y)


def check_labels(y: ArrayLike) -> None:
    """Check that text labels every window, and that the labels vary."""
    labels = as_labels("y", y)
    if are_constant(labels):
        raise ValueError(
            f"y is constant ({str(labels[0])!r} in all {len(labels)} windows); expected"
            " targets that vary"
        )


def are_probabilities(y_pred: NDArray[Any], axis: int = -1) -> bool:
    """Tell whether an axis holds probabilities; what is not finite is left out.

    Parameters
    ----------
    y_pred : ndarray
        What a classifier gives.
    axis : int, default=-1
        That of the classes.
    """
    y_pred = np.moveaxis(y_pred, axis, -1)
    finite = y_pred[np.isfinite(y_pred).all(axis=-1)]
    return bool((finite >= 0).all() and np.allclose(finite.sum(axis=-1), 1, atol=1e-3))


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
        Subjects: all text or all numbers.

    Returns
    -------
    groups : ndarray of shape (n_windows,)
        The same; text has a fixed width, and integers are no objects, so that
        ``numpy.load`` reads them without pickle.
    """
    return as_names("groups", groups, "a subject")


def as_names(name: str, names: Any, meaning: str) -> NDArray[Any]:
    """Check names of subjects, recordings or classes; give them as an array.

    NumPy would make the text "1" of the number 1 beside text, and "nan" of a missing
    value. It keeps text from pandas as Python objects, which ``numpy.load`` refuses.

    Parameters
    ----------
    name : str
        Of the argument.
    names : array-like of shape (n_windows,)
        All text or all numbers.
    meaning : str
        What one is, with an article: "a subject".

    Returns
    -------
    names : ndarray of shape (n_windows,)
        The same; never of dtype object.
    """
    # Not np.asarray, which makes one kind of several.
    objects = np.fromiter(names, dtype=object, count=_length(name, names))
    missing = np.flatnonzero(pd.isna(objects))
    if len(missing):
        raise ValueError(
            f"{name} must name {meaning} for every window, got"
            f" {objects[missing[0]]!r} for window {missing[0]}"
        )
    for i, value in enumerate(objects):
        accepted = isinstance(value, (str, Number, np.generic))
        if not accepted or isinstance(value, str) != isinstance(objects[0], str):
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
    return _without_objects(name, array, objects)


def _without_objects(
    name: str, array: NDArray[Any], objects: NDArray[np.object_]
) -> NDArray[Any]:
    """Give text a fixed width and numbers their own dtype; refuse what that changes."""
    if array.dtype.kind in ("O", "T"):
        array = np.array(objects.tolist())
    # Integers beyond 64 bits become floats or stay objects; a "\0" at the end of a
    # text is lost.
    kept = array == objects if array.dtype.kind in "biufU" else array.dtype != object
    if array.dtype.kind == "f" and all(
        isinstance(value, Integral) for value in objects
    ):
        kept = False
    changed = np.flatnonzero(~np.broadcast_to(kept, len(objects)))
    if len(changed):
        raise ValueError(
            f"{name} must be text or numbers that NumPy holds without a change, got"
            f" {objects[changed[0]]!r} for window {changed[0]}"
        )
    return array
