"""Short texts that describe the settings and the data of a training."""

from __future__ import annotations

import fnmatch
import functools
import hashlib
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import torch
from skorch.callbacks import Callback

from braindecode_sam._random import generator_states, set_generator_states

# Settings that may be different when a training resumes.
_MAY_CHANGE = (
    "callbacks", "max_epochs", "verbose", "device", "warm_start", "compile*",
    "*n_threads", "*__pin_memory*", "*__prefetch_factor",
    "callbacks__*__f_*", "callbacks__*__every", "callbacks__*__sink",
    "callbacks__print_log*", "callbacks__epoch_timer*",
)  # fmt: skip
N_SAMPLED = 32  # windows of a dataset of which the digest is computed
MAX_DEPTH = 12  # of objects within objects


def settings_of(net: Any) -> dict[str, str]:
    """Describe the parameters on which a training of an initialized net depends."""
    params = {
        **{f"callbacks__{name}": type(c) for name, c in net.callbacks_},
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


def described(value: Any, around: tuple[Any, ...] = ()) -> str:
    """Describe an object by a text that is the same in every process.

    Functions and classes are described by their names, not by their code. All other
    objects are described by their class and their public attributes, without those that
    are learned. `around` are the objects that contain this one.
    """
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if any(value is outer for outer in around) or len(around) > MAX_DEPTH:
        return kind  # recursive or deeply nested
    inside = functools.partial(described, around=(*around, value))
    if isinstance(value, functools.partial):
        return f"partial{inside([value.func, *value.args, value.keywords])}"
    name = getattr(value, "__qualname__", getattr(value, "__name__", None))
    if isinstance(name, str):  # a class, function, method or module
        owner = getattr(value, "__self__", None)
        has_owner = not (owner is None or isinstance(owner, (type, ModuleType)))
        text = f"{getattr(value, '__module__', None)}.{name}"
        return f"{text} of {inside(owner)}" if has_owner else text
    if isinstance(value, (pd.Series, pd.DataFrame, pd.Index)):
        value = value.to_numpy()
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        is_narrow = value.dtype is torch.bfloat16  # which NumPy does not have
        value = (value.float() if is_narrow else value).numpy()
    if isinstance(value, (np.generic, np.ndarray)):
        return contents_of(value) if value.ndim else repr(value.item())
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(inside, value))}]"
    if isinstance(value, (set, frozenset)):
        return f"{{{', '.join(sorted(map(inside, value)))}}}"
    if isinstance(value, Mapping):
        items = (f"{name}: {inside(item)}" for name, item in value.items())
        return f"{{{', '.join(items)}}}"
    attributes = {
        name: item
        for name, item in getattr(value, "__dict__", {}).items()
        if not name.startswith("_") and not name.endswith("_")
    }
    if isinstance(value, torch.nn.Module):
        attributes.pop("training", None)
        attributes |= {**value._modules, **value._parameters, **value._buffers}
        if hasattr(value, "probability"):  # braindecode's transforms hide it
            attributes["probability"] = value.probability
    if attributes:
        return f"{kind}{inside(attributes)}"
    text = repr(value)
    has_address = " at 0x" in text and not isinstance(value, (str, bytes))
    return kind if has_address else text


def data_of(X: Any, y: Any, groups: Any = None) -> dict[str, str]:
    """Describe windows, targets and, where present, groups, by shapes and digests.

    Arrays and MNE's epochs are digested completely, and of a Dataset a sample. One
    whose windows are random, as with random transforms, is described by its length.
    """
    if hasattr(X, "get_data"):  # MNE's
        X = X.get_data(copy=False)
    if hasattr(X, "shape"):
        found = {"X": contents_of(X)}
    else:
        states = generator_states()  # random transforms draw from them
        try:
            samples = {contents_of(X, is_whole=False) for _ in range(2)}
        finally:
            set_generator_states(states)
        is_random = len(samples) == 2
        found = {
            "X": f"shape {(len(X),)}, values random" if is_random else samples.pop()
        }
    groups = getattr(X, "groups", None) if groups is None else groups
    if groups is not None:
        found["groups"] = contents_of(np.asarray(groups))
    if y is not None:
        found["y"] = contents_of(np.asarray(y).reshape(len(y), -1))  # as in braindecode
    return found


def contents_of(data: Any, *, is_whole: bool = True) -> str:
    """Describe values by their shape and a digest, for any memory layout.

    The first axis are windows, of which a sample is digested unless `is_whole`.
    """
    shape = tuple(np.shape(data)) if hasattr(data, "shape") else (len(data),)
    digest = hashlib.blake2b(digest_size=8)
    for i in range(0, len(data), 1 if is_whole else max(-(-len(data) // N_SAMPLED), 1)):
        item = data[i]
        for part in item[:2] if isinstance(item, tuple) else [item]:
            values = np.asarray(part)
            is_text = values.dtype.kind in "OUS"
            digest.update(repr(part).encode() if is_text else values.tobytes())
    return f"shape {shape}, values {digest.hexdigest()}"


def callbacks_given(callbacks: Any) -> list[Any]:
    """Return the callbacks that were passed to a net, without their names."""
    return [item[1] if isinstance(item, tuple) else item for item in callbacks or []]


def differences(before: Mapping[str, str], now: Mapping[str, str]) -> dict[str, str]:
    """Return a text for each name whose value has changed."""
    return {
        name: f"was {before.get(name, 'not set')}, is {now.get(name, 'not set')}"
        for name in {**before, **now}
        if before.get(name) != now.get(name)
    }
