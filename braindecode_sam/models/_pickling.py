"""Pickling and deep copies of models with parametrized layers.

torch makes a class for each parametrized layer, which cannot be imported by its name,
and forbids pickling it. Here such a layer is pickled as its plain class and its
attributes, and the class is made again on loading.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.utils import parametrize


def allow_pickling(module: torch.nn.Module) -> None:
    """Make all parametrized layers of a module picklable, by changing their classes."""
    for layer in module.modules():
        cls: Any = type(layer)
        if parametrize.is_parametrized(layer) and "__getstate__" in vars(cls):
            cls.__reduce_ex__ = _reduce
            del cls.__getstate__
            if "__deepcopy__" in vars(cls):
                del cls.__deepcopy__


def _reduce(layer: torch.nn.Module, protocol: int) -> tuple[Any, ...]:
    plain = type(layer).__base__
    return _rebuild, (plain, layer.__dict__.copy())


def _rebuild(plain: Any, attributes: dict[str, Any]) -> Any:
    layer = plain.__new__(plain)
    torch.nn.Module.__setstate__(layer, attributes)
    parametrize._inject_new_class(layer)
    for name in layer.parametrizations:
        parametrize._inject_property(layer, name)
    allow_pickling(layer)  # so that a copy can be copied
    return layer
