"""Registration of this package's models in braindecode, also in worker processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from braindecode import EEGClassifier, EEGRegressor
from braindecode.models import util

_names: set[str] = set()


def register(models: Iterable[type[torch.nn.Module]]) -> None:
    """Register models by name, for ``EEGRegressor("FastEEGNeX")``.

    Parameters
    ----------
    models : iterable of type
        Model classes.
    """
    # braindecode fills its registry on the first look-up by name, if it is empty.
    if not util.models_dict:
        util._init_models_dict()
    found = {model.__name__: model for model in models}
    util.models_dict.update(found)
    _names.update(found)
    for host in (EEGClassifier, EEGRegressor):
        host.__reduce_ex__ = _reduce


def _reduce(net: Any, protocol: int) -> str | tuple[Any, ...]:
    """Pickle a net so that a new process can find its model by name.

    Unpickling calls a function of this module. Importing it imports this package, which
    registers the names.
    """
    reduced = object.__reduce_ex__(net, protocol)
    if net.module not in _names or isinstance(reduced, str):
        return reduced
    make, arguments, *state = reduced
    return _make, (make, *arguments), *state


def _make(make: Callable[..., Any], *arguments: Any) -> Any:
    return make(*arguments)
