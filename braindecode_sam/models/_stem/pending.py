"""Tensors that wait until something asks for their values.

Temporal and spatial filters commute: where one follows the other, the cheaper order
gives the same numbers. Whether one follows is not known when a layer runs, so the layer
returns a :class:`Pending`, a tensor of the right shape, dtype and device that has
computed nothing. What reads it decides:

- shape, dtype, device and the like are known without computing;
- a function that the deferred computation knows continues it
  (:meth:`Deferred.follow`);
- every other function gets the value that the stock layer would have returned.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map_only

_plain = torch._C.DisableTorchFunctionSubclass

# Read without the values. All else is computed: a longer list is only faster.
_PROPERTIES = (
    "shape dtype device ndim requires_grad is_leaf grad_fn is_cuda is_cpu is_mps"
    " is_sparse is_quantized is_meta layout is_nested output_nr"
)
_METHODS = (
    "dim size numel nelement is_floating_point is_complex ndimension is_inference"
    " element_size __hash__ __len__"
)
_KNOWN = frozenset(
    [getattr(Tensor, name).__get__ for name in _PROPERTIES.split()]
    + [getattr(Tensor, name) for name in _METHODS.split()]
    + [torch.numel, torch.is_floating_point, torch.is_complex, torch.is_inference]
)


_HASH = Tensor.__hash__  # the same before and after


class Deferred:
    """A computation that has not been made.

    Parameters
    ----------
    shape : sequence of int
        Of its value.
    dtype, device : torch.dtype, torch.device
        Of its value.
    inputs : sequence of torch.Tensor
        What gradients flow to. Nobody else may change them.
    sources : sequence of object
        Layers whose outputs wait in it, for :func:`watch`.
    """

    def __init__(
        self,
        shape: Sequence[int],
        dtype: torch.dtype,
        device: torch.device,
        inputs: Sequence[Tensor],
        sources: Sequence[Any],
    ) -> None:
        self.shape, self.dtype, self.device = torch.Size(shape), dtype, device
        self.inputs, self.sources = tuple(inputs), tuple(sources)
        self.requires_grad = torch.is_grad_enabled() and any(
            tensor.requires_grad for tensor in self.inputs
        )
        self._value: Tensor | None = None

    def compute(self) -> Tensor:
        """Compute the value as the stock layers do."""
        raise NotImplementedError

    def follow(self, function: Any, args: Any, kwargs: Any) -> Any:
        """Continue with a torch function; NotImplemented if that needs the value."""
        raise NotImplementedError

    @property
    def is_pending(self) -> bool:
        """Whether nothing has asked for the value."""
        return self._value is None

    def value(self, asked_by: Any = None) -> Tensor:
        """Give the value; computed once, so that changes in place are seen by all."""
        if self._value is None:
            _note(self.sources, None, asked_by)
            with torch.set_grad_enabled(self.requires_grad):
                self._value = self.compute()
        return self._value

    def pending(self) -> Tensor:
        """Give a tensor that stands for the value."""
        if self.requires_grad:
            waiting: Tensor = _Place.apply(self, *self.inputs)
            return waiting
        return Pending(self)


class Pending(torch.Tensor):
    """Stands for the value of a :class:`Deferred`."""

    deferred: Deferred

    @staticmethod
    def __new__(cls, deferred: Deferred) -> Pending:
        """Make a tensor without memory."""
        made = torch.Tensor._make_wrapper_subclass(
            cls, deferred.shape, dtype=deferred.dtype, device=deferred.device
        )
        made.deferred = deferred
        return made

    def __init__(self, deferred: Deferred) -> None:
        pass

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Continue what is deferred, or compute it."""
        kwargs = kwargs or {}
        if func in _KNOWN and (args[0].deferred.is_pending or func is _HASH):
            with _plain():
                return func(*args, **kwargs)
        leaves = tree_flatten((args, kwargs))[0]
        waiting = [leaf.deferred for leaf in leaves if isinstance(leaf, Pending)]
        # Not where a pending tensor is a weight, say.
        first = args[0] if args else None
        is_input = isinstance(first, Pending) and len(waiting) == 1
        several = first if isinstance(first, (list, tuple)) else ()
        inputs = several or ([first] if is_input else [])
        if inputs and all(map(_can_go_on, inputs)):
            found = waiting[0].follow(func, args, kwargs)
            if found is not NotImplemented:
                return found
        args, kwargs = _values((args, kwargs), func)
        return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Compute for what goes past torch functions, below autograd."""
        args, kwargs = _values((args, kwargs or {}), func)
        return func(*args, **kwargs)


def _can_go_on(tensor: Any) -> bool:
    if not isinstance(tensor, Pending):
        return True
    with _plain():
        node: Any = tensor.grad_fn
    # Another node is that of an autograd function which the tensor went through; within
    # the forward of one, gradients are off, and its own node would be gone past.
    is_own = node is None or getattr(node, "deferred", None) is tensor.deferred
    is_recorded = node is None or torch.is_grad_enabled()
    return tensor.deferred.is_pending and is_own and is_recorded


def _values(tree: Any, func: Any) -> Any:
    return tree_map_only(Pending, lambda p: p.deferred.value(func), tree)


class _Place(torch.autograd.Function):
    """Give a pending tensor its place in autograd's graph.

    Followers go past it. It is for what does not go by ``__torch_function__``: the
    autograd functions of module hooks and of activation checkpointing, say.
    """

    @staticmethod
    def forward(ctx: Any, deferred: Deferred, *inputs: Tensor) -> Tensor:
        """Wait."""
        ctx.deferred = deferred
        return Pending(deferred)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        """Differentiate the stock computation."""
        inputs = ctx.deferred.inputs
        needed = [i for i, tensor in enumerate(inputs) if tensor.requires_grad]
        is_graph_needed = torch.is_grad_enabled()
        with torch.enable_grad():
            found = torch.autograd.grad(
                ctx.deferred.compute(), [inputs[i] for i in needed], grad,
                create_graph=is_graph_needed, allow_unused=True,
            )  # fmt: skip
        grads: list[Tensor | None] = [None] * len(inputs)
        for i, gradient in zip(needed, found, strict=True):
            grads[i] = gradient
        return None, *grads


# What became of the pending outputs of layers.

_Outcomes = list[tuple[Any, str | None, Any]]
_outcomes: contextvars.ContextVar[_Outcomes | None] = contextvars.ContextVar(
    "outcomes", default=None
)


@contextlib.contextmanager
def watch() -> Iterator[_Outcomes]:
    """Collect what becomes of the pending outputs of layers.

    Yields
    ------
    outcomes : list of tuple
        (layer, pattern, multiply-adds before and after) of what continued to its end,
        (layer, None, function) of what was asked for by a function.
    """
    outcomes: _Outcomes = []
    token = _outcomes.set(outcomes)
    try:
        yield outcomes
    finally:
        _outcomes.reset(token)


def _note(sources: Sequence[Any], pattern: str | None, what: Any) -> None:
    outcomes = _outcomes.get()
    if outcomes is not None:
        outcomes.extend((source, pattern, what) for source in sources)


def note_end(deferred: Deferred, pattern: str, before: float, after: float) -> None:
    """Tell :func:`watch` that a deferred computation came to its end."""
    share = 1 / len(deferred.sources)
    _note(deferred.sources, pattern, (share * before, share * after))
