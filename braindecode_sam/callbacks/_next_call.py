"""Run something around the next call of a net's method."""

from __future__ import annotations

from typing import Any


def wrap_next_call(net: Any, name: str, wrapper: Any) -> Any:
    """Have the next call of a net's method made by ``wrapper(net, method, ...)``.

    skorch has no hook that runs when a fit raises.
    """

    def call(*args: Any, **kwargs: Any) -> Any:
        vars(net).pop(name, None)
        return wrapper(net, getattr(net, name), *args, **kwargs)

    vars(net)[name] = call
