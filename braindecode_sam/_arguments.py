"""Checks of single arguments. Imports only the standard library."""

from __future__ import annotations

import math
from collections.abc import Collection
from numbers import Integral, Real
from typing import Any


def check_choice(name: str, value: Any, accepted: Collection[Any]) -> None:
    """Raise unless the value is among those accepted."""
    if value not in accepted:
        names = ", ".join(map(repr, accepted))
        raise ValueError(f"{name} must be one of {names}, got {value!r}")


def check_number(name: str, value: Any) -> None:
    """Raise unless the value is a finite number."""
    if not isinstance(value, Real) or not math.isfinite(value):
        error = ValueError if isinstance(value, Real) else TypeError
        raise error(f"{name} must be a finite number, got {value!r}")


def check_non_negative(
    name: str, value: Any, accepted: str = "a finite number >= 0"
) -> None:
    """Raise unless the value is a finite number >= 0."""
    # SAM checks rho at every step, and isinstance of an abstract class is slow.
    if type(value) is not float and not isinstance(value, Real):
        raise TypeError(f"{name} must be {accepted}, got {value!r}")
    if not 0 <= value < math.inf:  # type: ignore[operator]  # Real is comparable
        raise ValueError(f"{name} must be {accepted}, got {value!r}")


def check_positive(
    name: str, value: Any, accepted: str = "a finite number > 0"
) -> None:
    """Raise unless the value is a finite number > 0."""
    check_non_negative(name, value, accepted)
    if not value > 0:
        raise ValueError(f"{name} must be {accepted}, got {value!r}")


def check_below_one(name: str, value: Any) -> None:
    """Raise unless the value is a number >= 0 and < 1."""
    accepted = "a number >= 0 and < 1"
    check_non_negative(name, value, accepted)
    if not value < 1:
        raise ValueError(f"{name} must be {accepted}, got {value!r}")


def check_integer(
    name: str, value: Any, smallest: int, largest: float = math.inf
) -> int:
    """Return the value as int; raise unless it is an integer in [smallest, largest]."""
    upper = "" if largest == math.inf else f" and <= {largest}"
    accepted = f"an integer >= {smallest}{upper}"
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{name} must be {accepted}, got {value!r}")
    if not smallest <= value <= largest:  # type: ignore[operator]
        raise ValueError(f"{name} must be {accepted}, got {value!r}")
    return int(value)


def check_bool(name: str, value: object) -> None:
    """Raise unless the value is True or False."""
    if value not in (True, False):
        raise TypeError(f"{name} must be True or False, got {value!r}")


def as_builtin(value: Any) -> Any:
    """Convert NumPy's numbers to Python's. torch refuses to load the former."""
    if type(value) in (list, tuple):
        return type(value)(map(as_builtin, value))
    is_numpy_number = hasattr(value, "item") and not hasattr(value, "__len__")
    return value.item() if is_numpy_number else value
