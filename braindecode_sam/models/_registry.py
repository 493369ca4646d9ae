"""Names of this package's models in braindecode, in this process and in workers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from braindecode import EEGClassifier, EEGRegressor
from braindecode.models import util

_names: set[str] = set()


def register(models: Iterable[type[torch.nn.Module]]) -> None:
    """Let braindecode find models by name, as in ``EEGRegressor("FastEEGNeX")``.

    Parameters
    ----------
    models : iterable of type
        Model classes.
    """
    # braindecode fills its registry when a model is first asked for by its name, and
    # only if it is empty.
    if not util.models_dict:
        util._init_models_dict()
    found = {model.__name__: model for model in models}
    util.models_dict.update(found)
    _names.update(found)
    for host in (EEGClassifier, EEGRegressor):
        host.__reduce_ex__ = _reduce


def _reduce(net: Any, protocol: int) -> str | tuple[Any, ...]:
    """Pickle a net so that a fresh process knows the name of its model.

    What is read by a function of this module imports this package first, and that
    registers the names.
    """
    reduced = object.__reduce_ex__(net, protocol)
    if net.module not in _names or isinstance(reduced, str):
        return reduced
    make, arguments, *state = reduced
    return _make, (make, *arguments), *state


def _make(make: Callable[..., Any], *arguments: Any) -> Any:
    return make(*arguments)
