"""What the second pass must not change: buffers and random numbers.

The second pass repeats the first one at other weights. It draws the same random
numbers, and its changes to buffers are undone. An optimizer knows tensors, not modules,
so that a global hook has to see which modules run.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Iterable, Iterator
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.nn.parameter import is_lazy

CPU = torch.device("cpu")


class PreservedBuffers:
    """Restore, at the end, the buffers of all modules that were called.

    The buffers in the tree of a module are copied before its first forward. Only calls
    on this thread count. If `params` are given, only modules with one of them count,
    and what their forward calls.
    """

    def __init__(self, params: Iterable[Tensor] | None = None) -> None:
        self._owned = None if params is None else set(params)
        self._owned_root: Module | None = None  # of the forward that is running
        self._seen: set[Module] = set()
        self._saved: list[tuple[Any, str, Tensor, Tensor]] = []
        self._handles: list[Any] = []

    def __enter__(self) -> Self:
        self._thread = threading.get_ident()
        # A strong reference would keep this object, and the hooks, alive.
        me: weakref.ref[PreservedBuffers] = weakref.ref(self)

        def see(module: Module, args: object) -> None:
            if not torch.compiler.is_compiling():
                _see(me, module)
            elif module._compiled_call_impl is not None:  # root of module.compile()
                _see_uncompiled(me, module)

        def leave(module: Module, args: object, output: object) -> None:
            preserved = me()
            if preserved is not None and module is preserved._owned_root:
                preserved._owned_root = None

        self._handles = [register_module_forward_pre_hook(see)]
        if self._owned is not None:
            # Lets speed_up keep outputs lazy: this hook does not read them.
            leave.ignores_output = True  # type: ignore[attr-defined]
            handle = register_module_forward_hook(leave, always_call=True)
            self._handles.append(handle)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._remove_hooks()
        with torch.inference_mode():  # which may write to inference tensors, too
            # Of a buffer that several modules share, the first copy is right.
            for table, name, buffer, copy in reversed(self._saved):
                if buffer.shape != copy.shape:  # a forward resized it in place
                    buffer.resize_(copy.shape)
                if _can_be_written(buffer):
                    buffer.data.copy_(copy)  # which graphs made before do not notice
                if name not in table or table[name] is not buffer:  # replaced
                    table[name] = buffer
        self._saved.clear()

    def _remove_hooks(self) -> None:
        for handle in self._handles:
            handle.remove()

    __del__ = _remove_hooks  # of an optimizer that is deleted between its two steps

    def _see(self, module: Module) -> None:
        if threading.get_ident() != self._thread or _is_transformed():
            return
        if self._owned is not None and self._owned_root is None:
            if self._owned.isdisjoint(module.parameters()):
                return
            self._owned_root = module
        if module not in self._seen:
            self.save(module)

    def save(self, root: Module) -> None:
        """Copy the buffers in the tree of a module, except those copied before."""
        modules: list[Module | None] = [root]
        while modules:
            module = modules.pop()
            if module is None or module in self._seen:
                continue
            self._seen.add(module)
            modules += module._modules.values()
            table = module._buffers
            for name, buffer in table.items():
                if buffer is not None and not is_lazy(buffer):
                    self._saved.append((table, name, buffer, buffer.clone()))


def _see(reference: weakref.ref[PreservedBuffers], module: Module) -> None:
    preserved = reference()
    if preserved is not None:
        preserved._see(module)


_see_uncompiled = torch._disable_dynamo(_see)


def _is_transformed() -> bool:
    """Whether this is within a transform of torch.func, where copies do not last."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def _can_be_written(buffer: Tensor) -> bool:
    """Whether each element has its own memory, unlike those of expand()."""
    is_plain = buffer.layout is not torch.strided or buffer.is_contiguous()
    return is_plain or 0 not in buffer.stride()


def rng_states(devices: Iterable[torch.device]) -> dict[torch.device, Tensor]:
    """Read the generators of the CPU and of other devices, without waiting for them."""
    states = {}
    for device in {CPU, *devices}:
        if device.type != "meta":  # has no values, random or not
            module, which = _generator(device)
            states[device] = module.get_rng_state(*which)
    return states


@contextlib.contextmanager
def replayed_rng(states: dict[torch.device, Tensor]) -> Iterator[None]:
    """Set the generators to earlier states, and restore them at the end."""
    after = rng_states(states)
    try:
        _set_states(states)
        yield
    finally:
        _set_states(after)


def _set_states(states: dict[torch.device, Tensor]) -> None:
    for device, state in states.items():
        module, which = _generator(device)
        module.set_rng_state(state, *which)


def _generator(device: torch.device) -> tuple[Any, tuple[torch.device, ...]]:
    """Return the module with a device's generator, and the arguments that select it."""
    if device.type == "cpu":
        return torch, ()
    module = torch.get_device_module(device)
    return module, () if device.type == "mps" else (device,)
