"""Checks and conversions of the arguments of a SAM optimizer."""

from __future__ import annotations

import difflib
import functools
import inspect
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from numbers import Integral, Number
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from braindecode_sam.optim._options import BASE_PREFIX

# Called with name and value. It raises the error that users see.
Check = Callable[[str, Any], object]
Checks = Mapping[str, Check | None]
BaseOptimizer = Callable[..., Optimizer]


def as_builtin(value: Any) -> Any:
    """Convert NumPy's numbers to Python's. torch refuses to load the former."""
    if isinstance(value, (list, tuple)):
        return type(value)(as_builtin(v) for v in value)
    is_numpy_number = isinstance(value, Number) and hasattr(value, "item")
    return value.item() if is_numpy_number else value


def check_params(params: Iterable[Any]) -> Iterable[Any]:
    """Return the parameters as a list; raise if there are none."""
    if isinstance(params, Tensor):
        return params  # torch's own error is clear
    params = list(params)
    is_group = [isinstance(entry, dict) for entry in params]
    if not params or (all(is_group) and not any(_holds(group) for group in params)):
        raise ValueError(
            f"params must hold at least one tensor, got {params!r}. Note that"
            " model.parameters() can be iterated over only once."
        )
    return params


def _holds(group: Mapping[str, Any]) -> bool:
    params = group["params"]
    return not hasattr(params, "__len__") or len(params) > 0


def check_base_optimizer(base: BaseOptimizer) -> None:
    """Raise unless `base` is a class of optimizers that step without a closure."""
    cls = base.func if isinstance(base, functools.partial) else base
    if not (isinstance(cls, type) and issubclass(cls, Optimizer)):
        raise TypeError(
            "base_optimizer must be a class derived from torch.optim.Optimizer, such"
            f" as torch.optim.AdamW (the class, not an instance), got {base!r}"
        )
    closure = inspect.signature(cls.step).parameters.get("closure")
    requires_closure = closure is not None and closure.default is closure.empty
    if requires_closure or getattr(cls, "needs_closure", False):
        raise ValueError(
            "base_optimizer must be able to step without a closure, as"
            f" torch.optim.AdamW and SGD are, got {cls.__name__}"
        )


def check_base_options(
    name: str, own: Iterable[str], base: BaseOptimizer, options: Iterable[str]
) -> None:
    """Raise if neither a SAM nor its base optimizer has one of the options."""
    cls: Any = base.func if isinstance(base, functools.partial) else base
    parameters = inspect.signature(cls).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    for spelled in options:
        option = spelled.removeprefix(BASE_PREFIX)
        if option not in parameters:
            known = [*parameters, *(own if option == spelled else ())]
            raise TypeError(
                f"neither {name} nor its base optimizer {cls.__name__} has an option"
                f" {spelled!r}{_hint(option, known)}"
            )


def warn_of_misspelt(group: Mapping[str, Any], known: Iterable[str]) -> None:
    """Warn of keys of a group that resemble an option. torch accepts any key."""
    known = list(known)
    for name in group:
        hint = _hint(name, known) if name not in known and name != "params" else ""
        if hint:
            warnings.warn(
                f"a parameter group has {name!r}, which is not an option{hint}",
                stacklevel=3,
            )


def _hint(option: str, known: Iterable[str]) -> str:
    alike = difflib.get_close_matches(option, list(known), n=1)
    return f"; did you mean {alike[0]!r}?" if alike else ""


def check_not_in_shards(base: Optimizer, params: Iterable[Tensor]) -> None:
    """Raise if each process holds a shard of the parameters without knowing it.

    The norm would be that of the shard, and each process would combine its perturbed
    shard with the unperturbed shards of the others.
    """
    frame = sys._getframe() if _zero_redundancy() is not None else None
    while frame is not None:
        # Only the constructor's frame shows whose local optimizer this is.
        if is_zero_redundancy(frame.f_locals.get("self")):
            raise ValueError(
                "SAM cannot be the optimizer_class of a ZeroRedundancyOptimizer: each"
                " process would perturb only its own shard. Use it as the base"
                " optimizer instead: SAM(params, ZeroRedundancyOptimizer,"
                " optimizer_class=torch.optim.AdamW, lr=...)."
            )
        frame = frame.f_back
    if is_zero_redundancy(base) and vars(base)["_overlap_with_ddp"]:
        raise ValueError(
            "SAM's base optimizer cannot be a ZeroRedundancyOptimizer with"
            " overlap_with_ddp=True, which steps during the backward of each pass;"
            " expected overlap_with_ddp=False."
        )
    for p in params:
        if getattr(p, "_fsdp_flattened", False) or getattr(p, "_is_flat_param", False):
            raise ValueError(
                "SAM cannot perturb the flattened parameters of"
                " FullyShardedDataParallel, of which each process has a part; expected"
                " parameters sharded by torch.distributed.fsdp.fully_shard (FSDP2),"
                " or replicated ones (DistributedDataParallel)."
            )


def is_zero_redundancy(optimizer: object) -> bool:
    """Whether each process keeps the state of only a part of the parameters."""
    cls = _zero_redundancy()
    return cls is not None and isinstance(optimizer, cls)


def _zero_redundancy() -> Any:
    # The module is slow to import. If there is an instance, it is imported already.
    module = sys.modules.get("torch.distributed.optim.zero_redundancy_optimizer")
    return getattr(module, "ZeroRedundancyOptimizer", None)


def check_bool(name: str, value: object) -> None:
    """Raise unless the value is True or False."""
    if value not in (True, False):
        raise TypeError(f"{name} must be True or False, got {value!r}")


def check_positions(name: str, value: object) -> None:
    """Raise unless the value is None or a list of integers."""
    if value is not None and not (
        isinstance(value, list) and all(isinstance(i, Integral) for i in value)
    ):
        raise TypeError(
            f"{name} must be None or a list of positions in the group's params, got"
            f" {value!r}; expected it to be set by perturb_only"
        )


def vanish(gradients: Iterable[Tensor | None]) -> bool:
    """Whether there are gradients, and all of them are zero."""
    known = [g for g in gradients if g is not None]
    return bool(known) and not any(torch.any(g != 0) for g in known)
