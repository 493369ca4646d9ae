"""Short texts that describe the settings and the data of a training."""

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

from braindecode_sam._random import (
    generator_states,
    set_generator_states,
)

# Settings that may be different when a training resumes.
_MAY_CHANGE = (
    "callbacks", "max_epochs", "verbose", "device", "warm_start", "compile*",
    "*__num_workers", "*__pin_memory*", "*__prefetch_factor", "*__persistent_workers",
    "callbacks__*__f_*", "callbacks__*__every", "callbacks__*__sink",
    "n_threads", "callbacks__print_log*", "callbacks__epoch_timer*",
)  # fmt: skip
N_SAMPLED = 32  # windows of which the digest is computed
MAX_DEPTH = 8  # of objects within objects


def settings_of(net: Any) -> dict[str, str]:
    """Describe the parameters on which a training depends.

    Parameters
    ----------
    net : skorch.NeuralNet
        Net with initialized callbacks.

    Returns
    -------
    settings : dict of str to str
        Parameters by their names in ``get_params``, as described by :func:`described`.
    """
    params = {
        **{f"callbacks__{name}": type(c).__name__ for name, c in net.callbacks_},
        **{
            name: value
            for name, value in net.get_params().items()
            # The parameters of callbacks are separate items.
            if not isinstance(value, Callback) and not name.startswith("_")
        },
    }
    return {
        name: described(value)
        for name, value in params.items()
        if not any(fnmatch.fnmatchcase(name, pattern) for pattern in _MAY_CHANGE)
    }


def described(value: Any) -> str:
    """Describe an object by a text that is the same in every process.

    Functions and classes are described by their names, and also by their code if they
    cannot be imported. Global variables that the code reads are not described. Objects
    are described by their class and attributes, without those that are learned or
    private.
    """
    return _described(value, ())


def _described(value: Any, around: tuple[Any, ...]) -> str:
    if any(value is outer for outer in around) or len(around) > MAX_DEPTH:
        return type(value).__qualname__  # recursive or deeply nested
    inside = functools.partial(_described, around=(*around, value))
    if isinstance(value, type):
        return _class(value, inside)
    if isinstance(value, property):
        return inside([value.fget, value.fset])
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
        is_narrow = value.dtype is torch.bfloat16  # which NumPy does not have
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


def _is_importable(value: Any) -> bool:
    return "<" not in value.__qualname__ and value.__module__ != "__main__"


def _class(value: type, inside: Any) -> str:
    text = f"{value.__module__}.{value.__qualname__}"
    if _is_importable(value):
        return text
    own = {
        name: getattr(item, "__func__", item)  # of static and class methods
        for name, item in vars(value).items()
        if not name.startswith("__") or hasattr(item, "__code__")
    }
    digest = hashlib.blake2b(inside([*value.__bases__, own]).encode(), digest_size=8)
    return f"{text} {digest.hexdigest()}"


def _function(value: Any, inside: Any) -> str:
    text = f"{value.__module__}.{value.__qualname__}"
    owner = getattr(value, "__self__", None)
    if owner is not None and not isinstance(owner, (type, ModuleType)):
        text += f" of {inside(owner)}"
    code = getattr(value, "__code__", None)
    if code is not None and not _is_importable(value):
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        digest = hashlib.blake2b(digest_size=8)
        digest.update(code.co_code + repr((_constants(code), code.co_names)).encode())
        text += f" {digest.hexdigest()}{inside([*cells, value.__defaults__])}"
    return text


def _constants(code: CodeType) -> list[str]:
    """Return the constants of a function and of functions defined in it."""
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
    """Describe data by their shapes and a digest of some of their values.

    Parameters
    ----------
    X : array-like, mne.Epochs or torch.utils.data.Dataset
        Windows, of which a sample is digested. A dataset whose windows are random, as
        with random transforms, is described only by its number of windows.
    y : array-like or None
        Targets.

    Returns
    -------
    data : dict of str to str
        A text for ``X``, ``y`` and ``groups``, where present.
    """
    if hasattr(X, "get_data"):  # MNE's
        X = X.get_data(copy=False)
    states = generator_states()  # random transforms draw from them
    try:
        found = {"X": contents_of(X, is_whole=False)}
        if not hasattr(X, "shape") and contents_of(X, is_whole=False) != found["X"]:
            found["X"] = f"shape {(len(X),)}, values random"
    finally:
        set_generator_states(states)
    if hasattr(X, "groups"):
        found["groups"] = f"values {_digest(np.asarray(X.groups), 1)}"
    if y is not None:
        found["y"] = contents_of(np.asarray(y).reshape(len(y), -1))  # as in braindecode
    return found


def contents_of(data: Any, *, is_whole: bool = True) -> str:
    """Describe windows, targets or subjects by their shape and values.

    Parameters
    ----------
    data : array-like or torch.utils.data.Dataset
        Data whose first axis are the windows.
    is_whole : bool, default=True
        Digest all windows, or a sample of them.

    Returns
    -------
    contents : str
        The same text for the same values, regardless of the memory layout.
    """
    shape = tuple(np.shape(data)) if hasattr(data, "shape") else (len(data),)
    step = 1 if is_whole else max(-(-len(data) // N_SAMPLED), 1)
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
    """Return the callbacks that were passed to a net, without their names."""
    return [item[1] if isinstance(item, tuple) else item for item in callbacks or []]


def differences(before: Mapping[str, str], now: Mapping[str, str]) -> dict[str, str]:
    """Describe what has changed.

    Returns
    -------
    changes : dict of str to str
        Names, with the values before and now.
    """
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return {
        name: f"was {before.get(name, 'not set')}, is {now.get(name, 'not set')}"
        for name in names
    }
