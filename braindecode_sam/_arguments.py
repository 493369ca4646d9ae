"""Checks of single arguments that several modules share. Knows nothing but Python."""

from __future__ import annotations

import math
from collections.abc import Collection
from numbers import Integral, Real
from typing import Any


def check_choice(name: str, value: Any, accepted: Collection[Any]) -> None:
    """Refuse a value that is not among those accepted."""
    if value not in accepted:
        names = ", ".join(map(repr, accepted))
        raise ValueError(f"{name} must be one of {names}, got {value!r}")


def check_number(name: str, value: Any) -> None:
    """Refuse all but finite numbers."""
    if not isinstance(value, Real):
        raise TypeError(f"{name} must be a finite number, got {value!r}")
    if not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, got {value!r}")


def check_non_negative(
    name: str, value: Any, accepted: str = "a finite number >= 0"
) -> None:
    """Refuse all but finite numbers from 0 up."""
    # SAM checks rho at every step, where asking for an abstract class would be slow.
    if type(value) is not float and not isinstance(value, Real):
        raise TypeError(f"{name} must be {accepted}, got {value!r}")
    if not 0 <= value < math.inf:  # type: ignore[operator]  # as it is for Real
        raise ValueError(f"{name} must be {accepted}, got {value!r}")


def check_positive(
    name: str, value: Any, accepted: str = "a finite number > 0"
) -> None:
    """Refuse all but finite numbers above 0."""
    check_non_negative(name, value, accepted)
    if not value > 0:
        raise ValueError(f"{name} must be {accepted}, got {value!r}")


def check_integer(
    name: str, value: Any, smallest: int, largest: float = math.inf
) -> int:
    """Refuse all but whole numbers between two; give the number."""
    upper = "" if largest == math.inf else f" and <= {largest}"
    accepted = f"an integer >= {smallest}{upper}"
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{name} must be {accepted}, got {value!r}")
    if not smallest <= value <= largest:  # type: ignore[operator]
        raise ValueError(f"{name} must be {accepted}, got {value!r}")
    return int(value)
