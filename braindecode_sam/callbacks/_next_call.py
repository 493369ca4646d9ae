"""Wrap the next call of a net's method."""

from __future__ import annotations

from typing import Any


def wrap_next_call(net: Any, name: str, wrapper: Any) -> Any:
    """Replace the next call of a net's method by ``wrapper(net, method, ...)``.

    A wrapper can clean up if a fit raises. skorch has no hook for that.
    """

    def call(*args: Any, **kwargs: Any) -> Any:
        vars(net).pop(name, None)
        return wrapper(net, getattr(net, name), *args, **kwargs)

    vars(net)[name] = call
