"""Tensors that depend on sizes alone, kept for the sizes that were used last."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeVar

import torch

T = TypeVar("T")
N_KEPT = 32


def cached_by_size(function: Callable[..., T]) -> Callable[..., T]:
    """Decorate a function of sizes whose last argument is a device.

    Parameters
    ----------
    function : callable
        Takes positional arguments that can be hashed, the device last. What it returns
        must not be modified.

    Returns
    -------
    function : callable
        Gives the very tensors of the last call with the same arguments.

    Examples
    --------
    >>> import torch
    >>> @cached_by_size
    ... def ramp(n, device):
    ...     return torch.arange(n, device=device)
    >>> ramp(3, torch.device("cpu")) is ramp(3, torch.device("cpu"))
    True
    """
    kept = functools.lru_cache(maxsize=N_KEPT)(function)

    @functools.wraps(function)
    def give(*args: object) -> T:
        device = args[-1]
        assert isinstance(device, torch.device)
        # What inference mode makes would be of no use outside of it.
        with torch.inference_mode(False), torch.no_grad():
            return (kept if _may_keep(device) else function)(*args)

    return give


def _may_keep(device: torch.device) -> bool:
    # A fake tensor holds nothing; what a CUDA graph records is computed in its replay.
    modes = torch._C._TorchDispatchModeKey
    if torch._C._get_dispatch_mode(modes.FAKE) is not None:
        return False
    return device.type != "cuda" or not torch.cuda.is_current_stream_capturing()
