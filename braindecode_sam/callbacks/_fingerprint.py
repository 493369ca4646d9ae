"""What a training belongs to: a net's settings and its data, as short texts."""

from __future__ import annotations

import fnmatch
import functools
import hashlib
from collections.abc import Mapping
from numbers import Number
from types import CodeType, ModuleType
from typing import Any

import numpy as np
import pandas as pd
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
DEPTH = 8  # to which objects within objects are looked at


def settings_of(net: Any) -> dict[str, str]:
    """Describe the parameters that a training depends on.

    Parameters
    ----------
    net : skorch.NeuralNet
        With its callbacks initialized.

    Returns
    -------
    settings : dict of str to str
        Parameters as ``get_params`` names them, described as by :func:`described`.
    """
    params = {
        **{f"callbacks__{name}": type(c).__name__ for name, c in net.callbacks_},
        **{
            name: value
            for name, value in net.get_params().items()
            # A callback's own parameters are there too.
            if not isinstance(value, Callback) and not name.startswith("_")
        },
    }
    return {
        name: described(value)
        for name, value in params.items()
        if not any(fnmatch.fnmatchcase(name, pattern) for pattern in _FREE)
    }


def described(value: Any) -> str:
    """Describe an object by a text that is the same in every process.

    Functions are told by their names, and those that cannot be imported by their code
    as well; objects by their class and attributes, but for learned and private ones.
    """
    return _described(value, ())


def _described(value: Any, around: tuple[Any, ...]) -> str:
    if any(value is outer for outer in around) or len(around) > DEPTH:
        return type(value).__qualname__  # it holds itself, or much else
    inside = functools.partial(_described, around=(*around, value))
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, functools.partial):
        return f"partial{inside([value.func, *value.args, value.keywords])}"
    if callable(value) and hasattr(value, "__qualname__"):
        return _function(value, inside)
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, (pd.Series, pd.DataFrame, pd.Index)):
        value = value.to_numpy()
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        is_narrow = value.dtype is torch.bfloat16  # which NumPy does not know
        value = (value.float() if is_narrow else value).numpy()
    if isinstance(value, np.ndarray) and value.ndim:
        return contents_of(value)
    if isinstance(value, np.ndarray):
        value = value.item()
    plain = (Number, str, bytes, range, slice, torch.dtype, torch.device)
    if value is None or isinstance(value, plain):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(inside, value))}]"
    if isinstance(value, (set, frozenset)):
        return f"{{{', '.join(sorted(map(inside, value)))}}}"
    if isinstance(value, Mapping):
        items = (f"{name}: {inside(item)}" for name, item in value.items())
        return f"{{{', '.join(items)}}}"
    return _object(value, inside)


def _function(value: Any, inside: Any) -> str:
    told = f"{value.__module__}.{value.__qualname__}"
    owner = getattr(value, "__self__", None)
    if owner is not None and not isinstance(owner, (type, ModuleType)):
        told += f" of {inside(owner)}"
    code = getattr(value, "__code__", None)
    if code is not None and (
        "<" in value.__qualname__ or value.__module__ == "__main__"
    ):
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        digest = hashlib.blake2b(digest_size=8)
        digest.update(code.co_code + repr((_constants(code), code.co_names)).encode())
        told += f" {digest.hexdigest()}{inside([*cells, value.__defaults__])}"
    return told


def _constants(code: CodeType) -> list[str]:
    """Constants of a function, and of those that are defined in it."""
    return [
        f"{c.co_code!r}{_constants(c)}" if isinstance(c, CodeType)
        else repr(sorted(map(repr, c)) if isinstance(c, frozenset) else c)
        for c in code.co_consts
    ]  # fmt: skip


def _object(value: Any, inside: Any) -> str:
    attributes = {
        name: item
        for name, item in getattr(value, "__dict__", {}).items()
        if not name.startswith("_") and not name.endswith("_")
    }
    if isinstance(value, torch.nn.Module):
        attributes.pop("training", None)
        attributes |= value._modules
        attributes |= {**value._parameters, **value._buffers}
    return f"{type(value).__qualname__}{inside(attributes) if attributes else ''}"


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
        found = {"X": contents_of(X, is_whole=False)}
        if not hasattr(X, "shape") and contents_of(X, is_whole=False) != found["X"]:
            found["X"] = f"shape {(len(X),)}, values random"
    finally:
        set_generator_states(states)
    if hasattr(X, "groups"):
        found["groups"] = f"values {_digest(np.asarray(X.groups), 1)}"
    if y is not None:
        found["y"] = contents_of(np.asarray(y).reshape(len(y), -1))  # as braindecode's
    return found


def contents_of(data: Any, *, is_whole: bool = True) -> str:
    """Describe windows, targets or subjects by their shape and values.

    Parameters
    ----------
    data : array-like or torch.utils.data.Dataset
        Windows first.
    is_whole : bool, default=True
        Look at all of the windows, or at some.

    Returns
    -------
    contents : str
        The same for the same values, however they lie in memory.
    """
    shape = tuple(np.shape(data)) if hasattr(data, "shape") else (len(data),)
    step = 1 if is_whole else max(-(-len(data) // SOME), 1)
    return f"shape {shape}, values {_digest(data, step)}"


def _digest(data: Any, step: int) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for i in range(0, len(data), step):
        item = data[i]
        for part in item[:2] if isinstance(item, tuple) else [item]:
            values = np.asarray(part)
            is_text = values.dtype.kind in "OUS"
            digest.update(repr(part).encode() if is_text else values.tobytes())
    return digest.hexdigest()


def callbacks_given(callbacks: Any) -> list[Any]:
    """List the callbacks that a net was given, without their names."""
    return [item[1] if isinstance(item, tuple) else item for item in callbacks or []]


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
