"""Tensors whose values are computed when something reads them.

Temporal and spatial filters commute. Where one follows the other, the cheaper order
gives the same result. A layer cannot know what follows it, so it returns a
:class:`Pending`, a tensor with the right shape, dtype and device but no values. What
happens depends on how it is read:

- Shape, dtype, device and similar properties are known without computing.
- A function that the deferred computation supports continues it
  (:meth:`Deferred.follow`).
- Any other function gets the value that the original layer would have returned.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._pytree import tree_flatten, tree_map_only

from braindecode_sam.models._stem.moments import MomentsMemory

_plain = torch._C.DisableTorchFunctionSubclass

# Read without the values. A longer list would be faster, but not more correct.
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


UNKNOWN = "unknown"


class Source:
    """A layer whose outputs are deferred, and what is known about its surroundings."""

    def __init__(self, memory: MomentsMemory) -> None:
        self.memory = memory  # shared by the layers of a model
        # What followed: the Front that ran in the cheaper order, with an output shorter
        # than the windows by n_lost samples, or None if `reader` read the value.
        self.front, self.n_lost = cast(Any, UNKNOWN), 0
        self.reader: str | None = None  # name of a function
        self.made: list[weakref.ref[Tensor]] = []  # pending outputs
        self.behind: tuple[torch.nn.Module, ...] = ()  # whose outputs are pending too
        self.logged: set[str] = set()  # reasons not to defer

    def reason_not_to_wait(self) -> str | None:
        """Return why the layer should not be deferred again, or None."""
        if self.reader is not None:
            return f"its output is read by {self.reader}"
        if self.front == UNKNOWN:
            return " and ".join(self.logged) or "its output is not used"
        is_kept = any(made() is not None for made in self.made)
        return "the model keeps its output" if is_kept else None

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"made": []}


_HASH = Tensor.__hash__  # does not change when the value is computed


class Deferred:
    """A computation that has not run yet.

    Gradients of the value flow to `inputs`, which other code must not change. `sources`
    are the layers whose outputs are deferred.
    """

    def __init__(
        self,
        shape: Sequence[int],
        dtype: torch.dtype,
        device: torch.device,
        inputs: Sequence[Tensor | None],
        sources: Sequence[Source],
    ) -> None:
        self.shape, self.dtype, self.device = torch.Size(shape), dtype, device
        self.inputs = tuple(tensor for tensor in inputs if tensor is not None)
        self.sources = tuple(sources)
        self.requires_grad = torch.is_grad_enabled() and any(
            tensor.requires_grad for tensor in self.inputs
        )
        self._value: Tensor | None = None

    def compute(self) -> Tensor:
        """Compute the value with the original layers."""
        raise NotImplementedError

    def follow(self, function: Any, args: Any, kwargs: Any) -> Any:
        """Continue with a torch function; NotImplemented if it needs the value."""
        raise NotImplementedError

    @property
    def is_pending(self) -> bool:
        """Whether the value has not been computed."""
        return self._value is None

    def value(self, asked_by: Any = None) -> Tensor:
        """Return the value, computed once so that in-place changes are shared."""
        if self._value is None:
            for source in self.sources:
                source.reader = getattr(asked_by, "__name__", str(asked_by))
                if source.front == UNKNOWN:
                    source.front = None
            with (
                torch.set_grad_enabled(self.requires_grad),
                contextlib.ExitStack() as s,
            ):
                if saved_tensors_have_hooks():
                    s.enter_context(saved_tensors_hooks(lambda t: t, lambda t: t))
                self._value = self.compute()
        return self._value

    def pending(self) -> Tensor:
        """Return a tensor that represents the value."""
        if self.requires_grad:
            pending: Tensor = _GraphNode.apply(self, *self.inputs)
        else:
            pending = Pending(self)
        for source in self.sources:
            source.made = [made for made in source.made if made() is not None]
            source.made.append(weakref.ref(pending))
        return pending


def saved_tensors_have_hooks() -> bool:
    """Return whether hooks save the tensors for backward.

    No layer is deferred then. If there are some later, activation checkpointing may
    have begun in between. It computes a second time what it encloses, and must not
    enclose what began outside.
    """
    return torch._C._autograd._top_saved_tensors_default_hooks(True) is not None


class Pending(torch.Tensor):
    """Tensor that represents the value of a :class:`Deferred`."""

    deferred: Deferred

    @staticmethod
    def __new__(cls, deferred: Deferred) -> Pending:
        """Make a tensor without storage."""
        made = torch.Tensor._make_wrapper_subclass(
            cls, deferred.shape, dtype=deferred.dtype, device=deferred.device
        )
        made.deferred = deferred
        return made

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Continue the deferred computation, or compute its value."""
        kwargs = kwargs or {}
        if func in _KNOWN and (args[0].deferred.is_pending or func is _HASH):
            with _plain():
                return func(*args, **kwargs)
        leaves = tree_flatten((args, kwargs))[0]
        deferred = [leaf.deferred for leaf in leaves if isinstance(leaf, Pending)]
        # A pending tensor may also be another argument, such as a weight.
        first = args[0] if args else None
        is_input = isinstance(first, Pending) and len(deferred) == 1
        several = first if isinstance(first, (list, tuple)) else ()
        inputs = several or ([first] if is_input else [])
        if inputs and all(map(_can_continue, inputs)):
            result = deferred[0].follow(func, args, kwargs)
            if result is not NotImplemented:
                return result
        args, kwargs = _values((args, kwargs), func)
        return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Compute the value for operations below autograd."""
        args, kwargs = _values((args, kwargs or {}), func)
        return func(*args, **kwargs)


def _can_continue(tensor: Any) -> bool:
    if not isinstance(tensor, Pending):
        return True
    with _plain():
        node: Any = tensor.grad_fn
    # A different node means that the tensor passed through an autograd function. Within
    # its forward, gradients are off, and continuing would bypass its node.
    is_own = node is None or (
        getattr(node, "deferred", None) is tensor.deferred and torch.is_grad_enabled()
    )
    return tensor.deferred.is_pending and is_own and not saved_tensors_have_hooks()


def _values(tree: Any, func: Any) -> Any:
    return tree_map_only(Pending, lambda p: p.deferred.value(func), tree)


class _GraphNode(torch.autograd.Function):
    """Node of a pending tensor in the graph of autograd.

    Operations that continue a deferred computation bypass it. Others that do not call
    ``__torch_function__`` use it, such as the autograd functions of module hooks and of
    activation checkpointing.
    """

    @staticmethod
    def forward(ctx: Any, deferred: Deferred, *inputs: Tensor) -> Tensor:
        """Return the pending tensor."""
        ctx.deferred = deferred
        return Pending(deferred)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        """Differentiate the computation of the original layers."""
        inputs, is_graph_needed = ctx.deferred.inputs, torch.is_grad_enabled()
        with torch.enable_grad():
            found = torch.autograd.grad(
                ctx.deferred.compute(), [t for t in inputs if t.requires_grad], grad,
                create_graph=is_graph_needed, allow_unused=True,
            )  # fmt: skip
        grads = iter(found)
        return None, *(next(grads) if t.requires_grad else None for t in inputs)
