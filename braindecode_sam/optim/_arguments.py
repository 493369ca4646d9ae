"""Checks and conversions of the arguments of a SAM optimizer.

Every check returns its argument, so that it can stand where the value is used.
"""

import functools
import inspect
from numbers import Number

import torch

from braindecode_sam._arguments import check_non_negative

BASE_PREFIX = "base_optimizer__"
GROUP_OPTIONS = ("rho", "adaptive", "eta", "perturbed")


def without_prefix(options):
    """Spell the base optimizer's options as the base optimizer does."""
    stripped = {}
    for name, value in options.items():
        short = name.removeprefix(BASE_PREFIX)
        if short in stripped:
            raise TypeError(f"{short} was given twice: also as {BASE_PREFIX}{short}.")
        stripped[short] = value
    return stripped


def as_builtin(value):
    """Turn NumPy's numbers into Python's: torch refuses to load the former."""
    if isinstance(value, (list, tuple)):
        return type(value)(as_builtin(v) for v in value)
    is_numpy_number = isinstance(value, Number) and hasattr(value, "item")
    return value.item() if is_numpy_number else value


def check_params(params):
    """Refuse an empty list, or groups that hold no parameter."""
    if isinstance(params, torch.Tensor):
        return params  # torch's own error is clear
    params = list(params)
    is_group = [isinstance(entry, dict) for entry in params]
    if not params or (all(is_group) and not any(group["params"] for group in params)):
        raise ValueError(
            f"params must hold at least one tensor, got {params!r}. Note that"
            " model.parameters() can be iterated over only once."
        )
    return params


def check_base_optimizer(base):
    """Refuse what is not an optimizer's class, or needs a closure itself."""
    cls = base.func if isinstance(base, functools.partial) else base
    if not (isinstance(cls, type) and issubclass(cls, torch.optim.Optimizer)):
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
    return base


def check_below_one(name, value):
    """Refuse all but numbers from 0 to less than 1."""
    expected = "a number >= 0 and < 1"
    check_non_negative(name, value, expected)
    if value >= 1:
        raise ValueError(f"{name} must be {expected}, got {value!r}")


def check_group(group):
    """Check the options of a parameter group that are SAM's own."""
    check_non_negative("rho", group["rho"])
    check_non_negative("eta", group["eta"])
    if group["adaptive"] not in (True, False):
        raise TypeError(f"adaptive must be True or False, got {group['adaptive']!r}")
    return group


def check_not_an_option(name, groups):
    """Refuse as a group's option what belongs to the whole optimizer."""
    for group in groups:
        if name in group:
            raise ValueError(
                f"{name}={group[name]!r} was set on an optimizer that is built already;"
                f" expected {name} among the arguments of its class. With skorch, set"
                f" optimizer__{name} before initialize, or on sklearn.base.clone(net)."
            )
