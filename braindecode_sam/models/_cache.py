"""Cache of tensors that depend on sizes only."""

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
        Function of hashable positional arguments, the device last. Its result must not
        be modified.

    Returns
    -------
    function : callable
        Function that returns the same tensors for the same arguments.

    Examples
    --------
    >>> import torch
    >>> @cached_by_size
    ... def ramp(n, device):
    ...     return torch.arange(n, device=device)
    >>> ramp(3, torch.device("cpu")) is ramp(3, torch.device("cpu"))
    True
    """
    cached = functools.lru_cache(maxsize=N_KEPT)(function)

    @functools.wraps(function)
    def call(*args: object) -> T:
        device = args[-1]
        assert isinstance(device, torch.device)
        # Inference tensors could not be used outside of inference mode.
        with torch.inference_mode(False), torch.no_grad():
            return (cached if _may_cache(device) else function)(*args)

    return call


def _may_cache(device: torch.device) -> bool:
    # Fake tensors have no values, and CUDA graphs compute theirs only on replay.
    modes = torch._C._TorchDispatchModeKey
    if torch._C._get_dispatch_mode(modes.FAKE) is not None:
        return False
    return device.type != "cuda" or not torch.cuda.is_current_stream_capturing()
