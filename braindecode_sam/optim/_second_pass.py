"""What the second pass of a step must not disturb, and when a step may be interrupted.

The second pass is a replay of the first one at other weights: it starts from the same
buffers and the same states of the random number generators, and what it does to either
is undone. An optimizer sees tensors, not modules, so :class:`preserve_buffers` learns
from a global forward pre-hook which modules run.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.nn.parameter import is_lazy

T = TypeVar("T")
CPU = torch.device("cpu")


# Buffers


class preserve_buffers:  # noqa: N801, reads as torch.no_grad does
    """Put the buffers of all modules that run back, after a second pass or a failure.

    Left by an exception, it leaves every buffer as it was before the first forward of
    its module. Otherwise, and if :meth:`rewind` was called between two passes, it
    leaves what the first pass left. All buffers in the tree of a module that is called
    are preserved, and those of modules outside of that tree which its forward calls.
    Only calls on this thread count, so that nets trained side by side do not meet.

    Parameters
    ----------
    memory : BufferMemory
        Keeps the copies' memory from step to step.
    params : iterable of torch.Tensor or None, default=None
        Preserve only modules with one of these parameters, and what their forward
        calls, and put their buffers back in any case. None means all modules.

    Examples
    --------
    >>> import torch
    >>> norm, x = torch.nn.BatchNorm1d(2), torch.randn(8, 2)
    >>> with preserve_buffers(BufferMemory()) as buffers:
    ...     _ = norm(x)
    ...     buffers.rewind()
    ...     _ = norm(x)
    >>> int(norm.num_batches_tracked)
    1
    """

    def __init__(
        self, memory: BufferMemory, params: Iterable[Tensor] | None = None
    ) -> None:
        self._memory = memory
        self._owned = None if params is None else {id(p) for p in params}
        self._is_inside = False  # of the forward of a module that owns a parameter
        self._before: list[_Buffers] = []
        self._after: list[_Buffers] = []
        self._is_second_pass = False
        # Held by their ids with the modules, which nobody else can get meanwhile.
        self._preserved: dict[int, Module] = {}
        self._skipped: set[int] = set()
        self._handles: list[Any] = []

    def __enter__(self) -> preserve_buffers:
        self._thread = threading.get_ident()
        self._memory.begin()
        self._watch()
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc_info: object) -> None:
        try:
            goes_back = kind is not None or self._owned is not None
            for buffers in self._before if goes_back else self._after:
                buffers.put_back()
        finally:
            self._unwatch()
            self._before, self._after, self._preserved = [], [], {}

    def rewind(self) -> None:
        """Note what the first pass left, and go back to what it started from."""
        self._after = [buffers.now() for buffers in self._before]
        self._is_second_pass = True
        for buffers in self._before:
            buffers.put_back()

    # The hook is global, since only torch knows when a module runs; nothing is left on
    # the modules themselves, so that copies of them are plain modules.

    def _watch(self) -> None:
        # A weak reference: when a two-step user drops the optimizer between its
        # steps, the hook must not keep that user's modules alive for ever.
        reference, skipped = weakref.ref(self), self._skipped

        @torch.compiler.disable
        def enter(module: Module, is_compiling: bool) -> None:
            preserving = reference()
            if preserving is None:
                handle.remove()
            else:
                preserving._enter(module, is_compiling)

        def hook(module: Module, args: object) -> None:
            if torch.compiler.is_compiling():
                enter(module, True)
            elif id(module) not in skipped:
                enter(module, False)

        handle = register_module_forward_pre_hook(hook)
        self._handles.append(handle)

    def _unwatch(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _enter(self, module: Module, is_compiling: bool) -> None:
        if threading.get_ident() != self._thread:
            return
        with DeferSigint():
            if self._owned is not None and not self._is_inside:
                if not any(id(p) in self._owned for p in module.parameters()):
                    return
                self._is_inside = True
                self._at_exit_of(module, self._leave)
            if id(module) not in self._preserved:
                self._preserve(module)
            if is_compiling or _is_compiled(module):
                # The hook would break a compiled forward's graph at every layer. All
                # layers in there are in the tree.
                self._unwatch()
                self._at_exit_of(module, self._watch)

    def _leave(self) -> None:
        self._is_inside = False

    def _at_exit_of(self, module: Module, function: Callable[[], None]) -> None:
        if isinstance(module, torch.jit.ScriptModule):
            function()  # takes no hook, and calls no modules that Python could see
            return

        @torch.compiler.disable
        def leave(module: Module, args: object, output: object) -> None:
            handle.remove()
            function()

        handle = module.register_forward_hook(leave, always_call=True)
        self._handles.append(handle)

    @torch.no_grad()
    def _preserve(self, root: Module) -> None:
        modules = list(root.modules())
        buffers = _Buffers(modules, self._memory)
        self._before.append(buffers)
        if self._is_second_pass:
            self._after.append(buffers)
        self._preserved |= {id(module): module for module in modules}
        if self._owned is None:
            self._skipped |= {id(m) for m in modules if not _is_compiled(m)}


class BufferMemory:
    """Memory for copies of buffers, used again in the next step."""

    def __init__(self) -> None:
        self._used: dict[object, list[Tensor]] = {}
        self._free: dict[object, list[Tensor]] = {}

    def begin(self) -> None:
        """Begin a step: what the last one used may be overwritten."""
        self._free, self._used = self._used, {}

    def empty_like(self, tensor: Tensor) -> Tensor:
        """Return a tensor to copy another one to."""
        kind = tensor.dtype, tensor.device, tensor.shape
        free = self._free.get(kind)
        copy = free.pop() if free else _empty(*kind)
        self._used.setdefault(kind, []).append(copy)
        return copy


class _Buffers:
    """The buffers of some modules, and the values they have now."""

    def __init__(self, modules: list[Module], memory: BufferMemory) -> None:
        self._modules, self._memory = modules, memory
        self._slots = [
            (module._buffers, name, buffer)
            for module in modules
            for name, buffer in module._buffers.items()
            if buffer is not None and _can_change(buffer)
        ]
        # Grouped as torch._foreach_* needs it to be fast.
        alike: dict[object, list[Tensor]] = {}
        for *_, buffer in self._slots:
            alike.setdefault((buffer.device, buffer.dtype), []).append(buffer)
        self._tensors = list(alike.values())
        self._values = [list(map(memory.empty_like, some)) for some in self._tensors]
        for values, tensors in zip(self._values, self._tensors, strict=True):
            torch._foreach_copy_(values, tensors)

    def now(self) -> _Buffers:
        """Return the same modules' buffers as they are now."""
        return _Buffers(self._modules, self._memory)

    def put_back(self) -> None:
        """Write the values back, in place, and bind a buffer that was bound anew."""
        for tensors, values in zip(self._tensors, self._values, strict=True):
            torch._foreach_copy_(tensors, values)
        for buffers, name, tensor in self._slots:
            if buffers.get(name) is not tensor:
                buffers[name] = tensor


def _can_change(buffer: Tensor) -> bool:
    """Whether a forward could change the buffer in place, and we could."""
    if is_lazy(buffer) or buffer.is_inference():
        return False
    if torch._C._functorch.is_functorch_wrapped_tensor(buffer):
        return False  # lives no longer than its transform
    is_expanded = 0 in buffer.stride() if buffer.layout is torch.strided else False
    return not is_expanded or buffer.is_contiguous()


def _empty(dtype: torch.dtype, device: torch.device, shape: torch.Size) -> Tensor:
    with torch.inference_mode(False):  # to be written to in the next step, too
        return torch.empty(shape, dtype=dtype, device=device)


def _is_compiled(module: Module) -> bool:
    dynamo = sys.modules.get("torch._dynamo.eval_frame")  # slow to import
    return dynamo is not None and isinstance(module, dynamo.OptimizedModule)


# Random numbers


def rng_states(devices: Iterable[torch.device]) -> dict[torch.device, Tensor]:
    """Read the states of torch's random number generators.

    Parameters
    ----------
    devices : iterable of torch.device
        Devices in use. The CPU's generator is always read too.

    Returns
    -------
    states : dict of torch.device to torch.Tensor
        A state for each generator. Reading one does not wait for the device.
    """
    return {
        device: _get_state(device)
        for device in {CPU, *devices}
        if device.type != "meta"  # has no values, random or not
    }


@contextlib.contextmanager
def replay_rng(states: dict[torch.device, Tensor]) -> Iterator[None]:
    """Rewind torch's generators to `states`, and put them back at the end.

    Parameters
    ----------
    states : dict of torch.device to torch.Tensor
        What :func:`rng_states` gave before the first pass.

    Examples
    --------
    >>> import torch
    >>> before = rng_states([])
    >>> first, after = torch.rand(2), rng_states([])
    >>> with replay_rng(before):
    ...     second = torch.rand(2)
    >>> torch.equal(first, second)
    True
    >>> torch.equal(after[CPU], rng_states([])[CPU])
    True
    """
    ahead = rng_states(states)
    try:
        _set_states(states)
        yield
    finally:
        _set_states(ahead)


def _get_state(device: torch.device) -> Tensor:
    if device.type == "cpu":
        return torch.get_rng_state()
    if device.type == "mps":  # one device, and no device argument
        return torch.mps.get_rng_state()
    return torch.get_device_module(device).get_rng_state(device)


def _set_states(states: dict[torch.device, Tensor]) -> None:
    for device, state in states.items():
        if device.type == "cpu":
            torch.set_rng_state(state)
        elif device.type == "mps":
            torch.mps.set_rng_state(state)
        else:
            torch.get_device_module(device).set_rng_state(state, device)


# Weights that somebody caches


def forget_cached_weights() -> None:
    """Drop what torch has computed from the weights and would use again.

    Inside of one ``torch.autocast`` every weight is cast once only, and inside of one
    ``parametrize.cached`` every parametrization is computed once only.
    """
    torch.clear_autocast_cache()
    parametrize = sys.modules.get("torch.nn.utils.parametrize")
    if parametrize is not None and parametrize._cache:
        parametrize._cache.clear()


# Interrupts


class DeferSigint:
    """Defer SIGINT, except in functions called by :meth:`call`.

    Python raises KeyboardInterrupt between any two instructions: between the copying
    of two tensors, or in the middle of the code that is to clean up after it. While
    this is open, an interrupt waits for the next :meth:`call` or for the end. Only the
    main thread gets interrupts; on others, and where SIGINT is ignored or not Python's
    to handle, this does nothing.

    Examples
    --------
    >>> import signal
    >>> done = []
    >>> try:
    ...     with DeferSigint():
    ...         signal.raise_signal(signal.SIGINT)
    ...         done.append("all of it")
    ... except KeyboardInterrupt:
    ...     done.append("then the interrupt")
    >>> done
    ['all of it', 'then the interrupt']
    """

    def __enter__(self) -> DeferSigint:
        self._previous: Any = None
        self._waiting: tuple[int, FrameType | None] | None = None
        self._is_open = False
        if threading.current_thread() is threading.main_thread():
            previous = signal.getsignal(signal.SIGINT)
            if callable(previous):
                self._previous = previous
                signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *exc_info: object) -> None:
        # The closure may have set a handler of its own, to stay.
        if signal.getsignal(signal.SIGINT) == self._handle:
            signal.signal(signal.SIGINT, self._previous)
        self._raise_deferred()

    def call(self, function: Callable[[], T]) -> T:
        """Call a function that may be interrupted.

        Parameters
        ----------
        function : callable
            Takes no arguments.

        Returns
        -------
        result : object
            What it returned.
        """
        self._raise_deferred()
        self._is_open = True
        try:
            return function()
        finally:
            self._is_open = False

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if not self._is_open:
            self._waiting = signum, frame
            return
        self._is_open = False  # a second one must not disturb the cleaning up
        self._previous(signum, frame)

    def _raise_deferred(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            self._previous(*waiting)
