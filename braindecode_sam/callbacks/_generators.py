"""States of all random number generators from which a net may draw."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def own_generators(net: Any) -> list[tuple[Any, Any]]:
    """Find the generators within a net's parameters, for instance in augmentations.

    braindecode's transforms hold NumPy's global generator or, after scikit-learn has
    cloned the net, a copy of it.

    Parameters
    ----------
    net : skorch.NeuralNet
        The net whose parameters are searched.

    Returns
    -------
    places : list of tuple
        Containers and keys, such that ``container[key]`` is a RandomState or a
        torch.Generator. The same generator may be in several places.
    """
    places: list[tuple[Any, Any]] = []
    _find_generators(net.get_params(deep=False), set(), places)
    return places


def _find_generators(node: Any, seen: set[int], places: list[tuple[Any, Any]]) -> None:
    if hasattr(node, "__dict__") and not isinstance(node, (type, dict)):
        node = vars(node)
    if id(node) in seen or not isinstance(node, (dict, list, tuple)):
        return
    seen.add(id(node))
    for key, item in list(node.items() if isinstance(node, dict) else enumerate(node)):
        if isinstance(item, (np.random.RandomState, torch.Generator)):
            places.append((node, key))
        else:
            _find_generators(item, seen, places)


def generator_states() -> dict[str, Any]:
    """Return the states of torch's generators on all devices, NumPy's and Python's.

    Returns
    -------
    states : dict
        States that consist of tensors and builtins.
    """
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return {
        "torch": torch.get_rng_state(),
        "cuda": cuda,
        "numpy": numpy_state(np.random.mtrand._rand),
        "python": random.getstate(),
    }


def set_generator_states(states: dict[str, Any]) -> None:
    """Restore states that :func:`generator_states` returned."""
    torch.set_rng_state(states["torch"])
    if states["cuda"]:
        torch.cuda.set_rng_state_all(states["cuda"])
    elif torch.cuda.is_initialized():  # initialized since then: seed it anew
        torch.cuda.manual_seed_all(torch.initial_seed())
    set_numpy_state(np.random.mtrand._rand, states["numpy"])
    random.setstate(states["python"])


def numpy_state(generator: Any) -> list[Any]:
    """Return the state of a RandomState as tensors and builtins."""
    name, key, *rest = generator.get_state()
    return [name, torch.as_tensor(key.astype(np.int64)), *rest]


def set_numpy_state(generator: np.random.RandomState, state: list[Any]) -> None:
    """Restore a state that :func:`numpy_state` returned."""
    name, key, *rest = state
    generator.set_state((name, key.numpy().astype(np.uint32), *rest))
