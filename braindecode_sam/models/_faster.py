"""Layers that do what torch's do, faster, and can become those again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch.nn.utils import parametrize

from braindecode_sam.models import _cost

Described = tuple[_cost.Kind, _cost.Shape]


class Settings(NamedTuple):
    """What :func:`~braindecode_sam.speed_up` was told about a layer."""

    name: str
    is_forced: bool = False
    has_exact_masks: bool = True


class Faster:
    """Mixin of a layer whose class :func:`~braindecode_sam.speed_up` changed."""

    # Not annotated, since TorchScript knows few types.
    original = cast(Any, None)  # class of torch
    pattern = ""  # how the layer gets faster
    settings = Settings("")

    @classmethod
    def can_replace(cls, layer: Any) -> bool:
        """Return whether the class suits a layer of the original one."""
        return True

    def describe(self, shape: Sequence[int]) -> Described | None:
        """Describe what the layer does to an input, for the estimate of its cost."""
        raise NotImplementedError

    def pays(self, x: torch.Tensor, described: Described | None) -> bool:
        """Return whether the faster implementation is estimated to be faster."""
        if described is None or self.settings.is_forced:
            return described is not None
        # Whether to expect a backward pass.
        is_training = cast(Any, self).training or torch.is_grad_enabled()
        return _cost.pays(*described, is_training, x.dtype, x.device.type)


def class_of(layer: torch.nn.Module) -> Any:
    """Return the class of a layer, that before its parametrization if it has one."""
    cls = type(layer)
    return cls.__base__ if parametrize.is_parametrized(layer) else cls


def replace(layer: Any, cls: Any, settings: Settings) -> None:
    """Give a layer another class; parameters, hooks and buffers stay."""
    restore(layer)
    _set_class(layer, cls)
    layer.settings = settings


def restore(layer: Any) -> None:
    """Give a layer its original class, unless it has that."""
    if isinstance(layer, Faster):
        _set_class(layer, layer.original)
        for name in ("settings", "source", "drawn"):
            vars(layer).pop(name, None)


def _set_class(layer: Any, cls: Any) -> None:
    if parametrize.is_parametrized(layer):
        # torch made a class for the layer, which its copies share.
        made = type(layer)
        of_any_class = "__dict__", "__weakref__"
        own = {k: v for k, v in vars(made).items() if k not in of_any_class}
        cls = type(made.__name__, (cls,), own)
    layer.__class__ = cls
