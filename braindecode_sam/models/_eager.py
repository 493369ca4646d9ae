"""Whether torch runs one operation after the other, on tensors with values."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch.autograd import forward_ad

T = TypeVar("T")
DTYPES = (torch.float32, torch.float64)


def reason_not_eager(x: Any) -> str | None:
    """Return why a layer must run torch's own operations on x, or None.

    They support what others may not: compilers, tracers, ``torch.func``, forward-mode
    differentiation, subclasses of tensors, and half precision.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return "it is being compiled or traced"
    if type(x) not in (
        torch.Tensor,
        torch.nn.Parameter,
    ):  # torch.fx passes proxies, for example
        return f"its input is a {type(x).__name__}"
    if x.layout != torch.strided or x.is_nested:
        return f"its input has the layout {x.layout}"
    if x.dtype not in DTYPES:
        return f"its input is {x.dtype}"
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return "it runs inside torch.func"
    if forward_ad._current_level >= 0:
        return "it runs in forward-mode differentiation"
    return "it is being traced" if _is_traced() else None


def _is_traced() -> bool:
    modes = torch._C._TorchDispatchModeKey
    get = torch._C._get_dispatch_mode
    return get(modes.PROXY) is not None or get(modes.FAKE) is not None


def cached_by_size(function: Callable[..., T]) -> Callable[..., T]:
    """Decorate a function of sizes whose last argument is a device.

    Its result must not be modified.
    """
    cached = functools.lru_cache(maxsize=32)(function)

    @functools.wraps(function)
    def call(*args: Any) -> T:
        # Fake tensors have no values, and CUDA graphs compute theirs only on replay.
        may_keep = not _is_traced() and (
            args[-1].type != "cuda" or not torch.cuda.is_current_stream_capturing()
        )
        # Inference tensors could not be used outside of inference mode.
        with torch.inference_mode(False), torch.no_grad():
            return (cached if may_keep else function)(*args)

    return call
