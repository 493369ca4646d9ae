"""State that the second pass must not change, and protection from interrupts.

The second pass replays the first one at other weights. It starts from the same buffers
and the same states of the random number generators, and its changes to both are undone.
An optimizer has references to tensors, not to modules. :class:`preserve_buffers`
therefore finds the modules that run with a global forward pre-hook.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import operator
import signal
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.compiler import is_compiling
from torch.nn import Module
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.nn.parameter import is_lazy

T = TypeVar("T")
CPU = torch.device("cpu")


# Buffers


class preserve_buffers:  # noqa: N801, reads as torch.no_grad does
    """Restore the buffers of all modules that run, after a second pass or a failure.

    If the block raises, every buffer is restored to its value before the first forward
    of its module. If :meth:`rewind` was called between two passes, the buffers end with
    the values of the first pass. The buffers in the whole tree of a called module are
    preserved, and also those of modules outside the tree that its forward calls. Only
    calls on this thread count, so that models can be trained in several threads.

    Parameters
    ----------
    cache : BufferCache
        Keeps the memory of the copies from step to step.
    defer : callable
        Returns a context manager that defers SIGINT.
    params : iterable of torch.Tensor or None, default=None
        Preserve only modules with one of these parameters and modules that their
        forward calls. Their buffers are restored also if the block does not raise.
        None means all modules.

    Examples
    --------
    >>> import torch
    >>> norm, x = torch.nn.BatchNorm1d(2), torch.randn(8, 2)
    >>> with preserve_buffers(BufferCache(), DeferSigint) as buffers:
    ...     _ = norm(x)
    ...     buffers.rewind()
    ...     _ = norm(x)
    >>> int(norm.num_batches_tracked)
    1
    """

    def __init__(
        self,
        cache: BufferCache,
        defer: Callable[[], contextlib.AbstractContextManager[Any]],
        params: Iterable[Tensor] | None = None,
    ) -> None:
        self._cache, self._defer = cache, defer
        self._owned = None if params is None else {id(p) for p in params}
        self._is_in_owned_forward = False
        self._before: list[_Buffers] = []
        self._after: list[_Buffers] = []
        self._is_second_pass = False
        # Ids of objects that self._before keeps alive, so that no id is reused.
        self._preserved: set[int] = set()
        self._skipped: set[int] = set()  # ids of modules whose calls need no action
        self._handles: list[Any] = []

    def __enter__(self) -> preserve_buffers:
        self._thread = threading.get_ident()
        self._cache.begin()
        self._watch()
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc_info: object) -> None:
        try:
            is_rolled_back = kind is not None or self._owned is not None
            _restore(self._before if is_rolled_back else self._after)
        except BaseException:  # a failure must not restore only some of them
            _restore(self._before)
            raise
        finally:
            self._unwatch()
            self._before, self._after = [], []

    def rewind(self) -> None:
        """Copy the buffers after the first pass, and restore those from before it."""
        self._after = [buffers.current() for buffers in self._before]
        self._is_second_pass = True
        _restore(self._before)

    # The hook is global, since only torch knows when a module runs. The modules get no
    # hooks, so that copies of them that are made in a pass are plain modules.

    def _watch(self) -> None:
        # A weak reference. If the optimizer is deleted between first_step and
        # second_step, the hook must not keep the modules alive.
        reference, skipped = weakref.ref(self), self._skipped
        enter_compiled = _not_compiled(_enter_compiled)

        def hook(module: Module, args: object) -> None:
            if is_compiling():
                enter_compiled(reference, module)
            elif id(module) not in skipped:
                preserving = reference()
                if preserving is None:
                    handle.remove()
                else:
                    preserving._enter(module)

        handle = register_module_forward_pre_hook(hook)
        self._handles.append(handle)

    def _unwatch(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _enter(self, module: Module, is_compiled: bool = False) -> None:
        if threading.get_ident() != self._thread:
            return
        with self._defer():
            if self._owned is not None and not self._is_in_owned_forward:
                if not self._has_owned_parameter(module):
                    return
                self._is_in_owned_forward = True
                self._at_exit_of(module, self._leave, register_module_forward_hook)
            if id(module) not in self._preserved:
                self._preserve(module)
            if is_compiled or _is_compiled(module):
                # The hook would break the graph of a compiled forward at every layer.
                # It is not needed there, as all of those layers are in the tree.
                self._unwatch()
                self._at_exit_of(module, self._watch, module.register_forward_hook)

    def _has_owned_parameter(self, module: Module) -> bool:
        return any(id(p) in (self._owned or ()) for p in module.parameters())

    def _leave(self) -> None:
        self._is_in_owned_forward = False
        self._skipped.clear()

    def _at_exit_of(
        self, module: Module, function: Callable[[], None], register: Any
    ) -> None:
        def leave(called: Module, args: object, output: object) -> None:
            if called is module:
                handle.remove()
                function()

        hook = torch.compiler.disable(leave)
        # Lets speed_up keep outputs lazy: this hook does not read them.
        hook.ignores_output = True
        handle = register(hook, always_call=True)
        self._handles.append(handle)

    @torch.no_grad()
    def _preserve(self, root: Module) -> None:
        # Buffers in the trees of two modules, for instance a model and a slice of it,
        # are copied for the one called first. Later they may have changed.
        buffers = self._cache.saved(root, self._preserved)
        self._before.append(buffers)
        if self._is_second_pass:
            self._after.append(buffers)
        self._preserved |= buffers.ids
        self._skipped |= buffers.not_compiled


# Called late, as it imports the compiler, which takes seconds.
_not_compiled = functools.cache(torch.compiler.disable)


def _enter_compiled(reference: weakref.ref[preserve_buffers], module: Module) -> None:
    preserving = reference()
    if preserving is not None:
        preserving._enter(module, is_compiled=True)


class BufferCache:
    """Copies of the buffers of modules, whose memory is reused in the next step."""

    def __init__(self) -> None:
        self._used: dict[int, _Buffers] = {}
        self._previous: dict[int, _Buffers] = {}

    def begin(self) -> None:
        """Begin a step. Forget modules that did not run in the last one."""
        self._previous, self._used = self._used, {}

    def saved(self, root: Module, exclude: set[int]) -> _Buffers:
        """Copy the buffers in a module's tree, except those with excluded ids."""
        buffers = self._previous.get(id(root))
        if (
            buffers is None
            or buffers.root is not root
            or not buffers.are_current()
            or buffers.left_out
            or not buffers.ids.isdisjoint(exclude)
        ):
            buffers = _Buffers(root, frozenset(exclude))
        self._used[id(root)] = buffers
        buffers.save()
        return buffers


class _Buffers:
    """The buffers of a module's tree, and copies of them.

    Parameters
    ----------
    root : torch.nn.Module
        Root of the tree.
    left_out : frozenset of int, default=frozenset()
        Ids of modules and buffers in the tree to leave out.
    """

    def __init__(self, root: Module, left_out: frozenset[int] = frozenset()) -> None:
        self.root, self.left_out = root, left_out
        self._all = [module for module in root.modules() if id(module) not in left_out]
        self.not_compiled = {id(m) for m in self._all if not _is_compiled(m)}
        self._children = _TableEntries(module._modules for module in self._all)
        self._buffers = _TableEntries(module._buffers for module in self._all)
        some = [
            buffer
            for buffer in self._buffers.entries
            if buffer is not None and id(buffer) not in left_out
        ]
        self.ids = {*map(id, self._all), *map(id, some)}
        self._lazy = [buffer for buffer in some if is_lazy(buffer)]
        self._materialized = [buffer for buffer in some if not is_lazy(buffer)]
        self._metadata_before = list(map(_metadata, self._materialized))
        self._bindings = [
            (module._buffers, name, buffer)
            for module in self._all
            for name, buffer in module._buffers.items()
            if _can_be_bound(buffer) and not isinstance(module, torch.jit.ScriptModule)
        ]
        alike: dict[object, list[Tensor]] = {}
        for buffer in filter(_can_be_copied, self._materialized):
            # On accelerators torch._foreach_* is fast for one dtype at a time.
            dtype = None if buffer.is_cpu else buffer.dtype
            alike.setdefault((buffer.device, dtype), []).append(buffer)
        self._tensors = list(alike.values())
        self._copies = [list(map(_empty_like, some)) for some in self._tensors]
        self._after: _Buffers | None = None

    def are_current(self) -> bool:
        """Whether the tree still has the same modules and the same buffers."""
        return (
            self._children.are_current()
            and self._buffers.are_current()
            and all(map(is_lazy, self._lazy))
            and list(map(_metadata, self._materialized)) == self._metadata_before
        )

    def save(self) -> None:
        """Copy the buffers."""
        for copies, tensors in zip(self._copies, self._tensors, strict=True):
            torch._foreach_copy_(copies, tensors)

    def current(self) -> _Buffers:
        """Return copies of the current buffers of the same tree."""
        after = self._after
        if after is None or not after.are_current():
            after = self._after = _Buffers(self.root, self.left_out)
        after.save()
        return after

    def restore(self) -> None:
        """Write the copies back in place, and rebind buffers that were replaced."""
        for tensors, copies in zip(self._tensors, self._copies, strict=True):
            for now, copy in zip(tensors, copies, strict=True):
                if now.shape != copy.shape:  # a forward resized it in place
                    now.resize_(copy.shape)
            torch._foreach_copy_(tensors, copies)
        for buffers, name, tensor in self._bindings:
            if buffers.get(name) is not tensor:
                buffers[name] = tensor


def _restore(states: Iterable[_Buffers]) -> None:
    for buffers in states:
        buffers.restore()


class _TableEntries:
    """Entries of some dicts of modules, to be compared at every step."""

    def __init__(self, tables: Iterable[Any]) -> None:
        self._empty: list[Any] = []
        self._filled: list[Any] = []
        for table in tables:
            (self._filled if table else self._empty).append(table)
        self.entries = self._now()

    def _now(self) -> list[Any]:
        return list(itertools.chain.from_iterable(map(_values, self._filled)))

    def are_current(self) -> bool:
        """Whether nothing was added, removed or replaced."""
        now = self._now()
        return (
            not any(self._empty)
            and len(now) == len(self.entries)
            and all(map(operator.is_, now, self.entries))
        )


_values = operator.methodcaller("values")
_metadata = operator.attrgetter("shape", "dtype", "device")


def _can_be_bound(buffer: Tensor | None) -> bool:
    """Whether a buffer can be rebound after a forward replaced it."""
    if buffer is None or is_lazy(buffer):
        return False
    # A tensor wrapped by functorch is not valid after its transform.
    return not torch._C._functorch.is_functorch_wrapped_tensor(buffer)


def _can_be_copied(buffer: Tensor) -> bool:
    """Whether the buffer can be changed in place, by a forward and by a copy."""
    if not _can_be_bound(buffer) or buffer.is_inference():
        return False
    is_plain = buffer.layout is torch.strided and not (
        buffer.is_quantized or buffer.is_nested or buffer.is_conj() or buffer.is_neg()
    )
    return is_plain and (0 not in buffer.stride() or buffer.is_contiguous())


def _empty_like(buffer: Tensor) -> Tensor:
    with torch.inference_mode(False):  # it is written to in later steps too
        return torch.empty(buffer.shape, dtype=buffer.dtype, device=buffer.device)


def _is_compiled(module: Module) -> bool:
    dynamo = sys.modules.get("torch._dynamo.eval_frame")  # slow to import
    return dynamo is not None and isinstance(module, dynamo.OptimizedModule)


# Random numbers


def rng_states(devices: Iterable[torch.device]) -> dict[torch.device, Tensor]:
    """Read the states of torch's random number generators.

    Parameters
    ----------
    devices : iterable of torch.device
        Devices in use. The CPU's generator is always included.

    Returns
    -------
    states : dict of torch.device to torch.Tensor
        State of each generator. Reading it does not wait for the device.
    """
    return {
        device: _get_state(device)
        for device in {CPU, *devices}
        if device.type != "meta"  # has no values, random or not
    }


class replay_rng:  # noqa: N801
    """Set torch's generators to `states`, and restore them at the end.

    Parameters
    ----------
    states : dict of torch.device to torch.Tensor
        States that :func:`rng_states` returned before the first pass.

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

    def __init__(self, states: dict[torch.device, Tensor]) -> None:
        self._states = states

    def __enter__(self) -> None:
        self._states_after = {device: _get_state(device) for device in self._states}
        try:
            _set_states(self._states)
        except BaseException:  # a failure must not set only some of them
            _set_states(self._states_after)
            raise

    def __exit__(self, *exc_info: object) -> None:
        _set_states(self._states_after)


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


# Caches of weights in torch


def forget_cached_weights() -> None:
    """Clear torch's caches of values that depend on the weights.

    Within one ``torch.autocast``, each weight is cast only once. Within one
    ``parametrize.cached``, each parametrization is computed only once.
    """
    torch.clear_autocast_cache()
    parametrize = sys.modules.get("torch.nn.utils.parametrize")
    if parametrize is not None and parametrize._cache:
        parametrize._cache.clear()


# Interrupts


class DeferSigint:
    """Defer SIGINT, except in functions called by :meth:`call`.

    Python raises KeyboardInterrupt between any two instructions, even between the
    copies of two tensors or in the code that cleans up. In this context, an interrupt
    is deferred until the next :meth:`call` or the end. Only the main thread receives
    interrupts. In other threads, and if SIGINT is ignored or not handled by Python, the
    context does nothing.

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
        self._is_interruptible = False
        if threading.current_thread() is threading.main_thread():
            previous = signal.getsignal(signal.SIGINT)
            if callable(previous):
                self._previous = previous
                signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._previous is not None:
            current = signal.signal(signal.SIGINT, self._previous)
            if current != self._handle:  # the closure has set another handler
                signal.signal(signal.SIGINT, current)
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
            What `function` returned.
        """
        self._raise_deferred()
        self._is_interruptible = True
        try:
            return function()
        finally:
            self._is_interruptible = False

    @contextlib.contextmanager
    def closed(self) -> Iterator[None]:
        """Defer SIGINT again, within a function called by :meth:`call`."""
        was_open, self._is_interruptible = self._is_interruptible, False
        try:
            yield
        finally:
            self._is_interruptible = was_open
            if was_open:
                self._raise_deferred()

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if not self._is_interruptible:
            self._waiting = signum, frame
            return
        self._is_interruptible = False  # a second one must not interrupt the cleanup
        self._previous(signum, frame)

    def _raise_deferred(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            self._previous(*waiting)
