"""Functions that ``torch.compile`` must not trace."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch


def not_compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Run a function uncompiled inside of a compiled one.

    As ``torch.compiler.disable``, but that imports the compiler, which takes seconds,
    where it is applied; this one does so only when something is being compiled.

    Parameters
    ----------
    function : callable
        To be decorated.

    Returns
    -------
    function : callable
        Decorated.
    """

    def disabled(*args: Any, **kwargs: Any) -> Any:
        return torch.compiler.disable(function)(*args, **kwargs)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        chosen = disabled if torch.compiler.is_compiling() else function
        return chosen(*args, **kwargs)

    return call
