"""What a training belongs to: a net's settings and its data, as short texts."""

from __future__ import annotations

import fnmatch
import functools
import hashlib
from collections.abc import Mapping
from numbers import Number
from typing import Any

import numpy as np
import torch
from skorch.callbacks import Callback

from braindecode_sam.callbacks._generators import (
    generator_states,
    set_generator_states,
)

# What may be different when a training goes on.
_FREE = (
    "callbacks", "max_epochs", "verbose", "device", "warm_start", "compile*",
    "*__num_workers", "*__pin_memory*", "*__prefetch_factor", "*__persistent_workers",
    "callbacks__*__f_*", "callbacks__*__every", "callbacks__*__sink",
    "callbacks__*__n_threads", "callbacks__print_log*", "callbacks__epoch_timer*",
)  # fmt: skip
SOME = 32  # windows that are looked at


def settings_of(net: Any) -> dict[str, str]:
    """Describe the parameters that a training depends on.

    Parameters
    ----------
    net : skorch.NeuralNet
        With its callbacks initialized.

    Returns
    -------
    settings : dict of str to str
        Parameters as ``get_params`` names them; objects by their class and their own
        plain attributes, functions by their name.
    """
    params = {
        **{f"callbacks__{name}": type(c).__name__ for name, c in net.callbacks_},
        **{
            name: value
            for name, value in net.get_params().items()
            if not isinstance(value, Callback)  # its own parameters are there too
        },
    }
    return {
        name: described(value)
        for name, value in params.items()
        if not any(fnmatch.fnmatchcase(name, pattern) for pattern in _FREE)
    }


def described(value: Any) -> str:
    """Describe an object by a short text that is the same in every process."""
    if isinstance(value, type) or (callable(value) and hasattr(value, "__qualname__")):
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, functools.partial):
        return f"partial{described([value.func, *value.args, value.keywords])}"
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, (np.ndarray, torch.Tensor)) and np.ndim(value):
        return f"shape {tuple(value.shape)}, values {_digest(value, len(value))}"
    if isinstance(value, (np.ndarray, torch.Tensor)):
        value = value.item()
    if value is None or isinstance(value, (Number, str, torch.dtype, torch.device)):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(described, value))}]"
    if isinstance(value, Mapping):
        items = (f"{name}: {described(item)}" for name, item in value.items())
        return f"{{{', '.join(items)}}}"
    plain = {
        name: item
        for name, item in getattr(value, "__dict__", {}).items()
        if isinstance(item, (Number, str, type)) and not name.endswith("_")
    }
    return f"{type(value).__qualname__}{described(plain) if plain else ''}"


def data_of(X: Any, y: Any) -> dict[str, str]:
    """Describe data by their sizes and by some of their values.

    Parameters
    ----------
    X : array-like, mne.Epochs or torch.utils.data.Dataset
        Windows, of which some are looked at. Of datasets whose windows differ from time
        to time, as with random transforms, only the number is told.
    y : array-like or None
        Targets.

    Returns
    -------
    data : dict of str to str
        A text each.
    """
    if hasattr(X, "get_data"):  # MNE's
        X = X.get_data(copy=False)
    states = generator_states()  # reading must not draw for the training
    try:
        digest = _digest(X)
        if not hasattr(X, "shape") and _digest(X) != digest:
            digest = "random"
    finally:
        set_generator_states(states)
    shape = tuple(np.shape(X)) if hasattr(X, "shape") else (len(X),)
    found = {"X": f"shape {shape}, values {digest}"}
    if hasattr(X, "groups"):
        found["groups"] = f"values {_digest(np.asarray(X.groups), len(X))}"
    if y is not None:
        columns = np.asarray(y).reshape(len(y), -1)  # braindecode's fit adds one
        digest = _digest(columns, len(columns))
        found["y"] = f"shape {columns.shape}, values {digest}"
    return found


def _digest(data: Any, n_looked_at: int = SOME) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for i in range(0, len(data), -(-len(data) // n_looked_at)):
        item = data[i]
        for part in item[:2] if isinstance(item, tuple) else [item]:
            values = np.asarray(part)
            is_text = values.dtype.kind in "OUS"
            digest.update(repr(part).encode() if is_text else values.tobytes())
    return digest.hexdigest()


def differences(before: Mapping[str, str], now: Mapping[str, str]) -> dict[str, str]:
    """Tell what is not as it was.

    Returns
    -------
    changes : dict of str to str
        Names, and what they were and are.
    """
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return {
        name: f"was {before.get(name, 'not set')}, is {now.get(name, 'not set')}"
        for name in names
    }
