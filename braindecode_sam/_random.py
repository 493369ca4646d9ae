"""States of the random number generators from which a training draws."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import torch


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global generators of torch, NumPy and Python, and restore them."""
    outside = generator_states()
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
    try:
        yield
    finally:
        set_generator_states(outside)


def generator_states() -> dict[str, Any]:
    """Return the states of the global generators, as tensors and builtins.

    They are torch's on all devices in use, NumPy's and Python's.
    """
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return {
        "torch": torch.get_rng_state(),
        "cuda": cuda,
        "numpy": state_of(np.random.mtrand._rand),
        "python": random.getstate(),
    }


def set_generator_states(states: dict[str, Any]) -> None:
    """Restore states that :func:`generator_states` returned."""
    torch.set_rng_state(states["torch"])
    if states["cuda"]:
        torch.cuda.set_rng_state_all(states["cuda"])
    elif torch.cuda.is_initialized():  # initialized since then: seed it anew
        torch.cuda.manual_seed_all(torch.initial_seed())
    set_state(np.random.mtrand._rand, states["numpy"])
    random.setstate(states["python"])


def state_of(generator: np.random.RandomState | torch.Generator) -> Any:
    """Return the state of one generator, as tensors and builtins."""
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    name, key, *rest = cast(tuple[Any, ...], generator.get_state())
    return [name, torch.as_tensor(key.astype(np.int64)), *rest]


def set_state(generator: np.random.RandomState | torch.Generator, state: Any) -> None:
    """Restore a state that :func:`state_of` returned."""
    if isinstance(generator, torch.Generator):
        generator.set_state(state)
    else:
        name, key, *rest = state
        generator.set_state((name, key.numpy().astype(np.uint32), *rest))


def own_generators(net: Any) -> list[tuple[Any, Any]]:
    """Find the generators within a net's parameters, for instance in augmentations.

    braindecode's transforms hold NumPy's global generator or, after scikit-learn has
    cloned the net, a copy of it.

    Returns
    -------
    places : list of tuple
        Containers and keys, such that ``container[key]`` is a RandomState or a
        torch.Generator. The same generator may be in several places.
    """
    places: list[tuple[Any, Any]] = []
    names = set(net.get_params(deep=False))
    _find_generators(vars(net), sorted(names & vars(net).keys()), set(), places)
    return places


def seed_own_generators(net: Any, seed: int) -> None:
    """Replace the generators within a net's parameters by seeded ones.

    They are replaced, as one of them may be NumPy's global generator. Seeds are derived
    from `seed`, so that they differ from each other and from it.
    """
    places = own_generators(net)
    seeds = np.random.SeedSequence(seed).generate_state(1 + len(places))[1:]
    for (container, key), own in zip(places, map(int, seeds), strict=True):
        generator = container[key]
        container[key] = (
            torch.Generator(generator.device).manual_seed(own)
            if isinstance(generator, torch.Generator)
            else np.random.RandomState(own)
        )


def _find_generators(
    node: Any, keys: Any, seen: set[int], places: list[tuple[Any, Any]]
) -> None:
    for key in list(keys):
        item = node[key]
        if isinstance(item, (np.random.RandomState, torch.Generator)):
            places.append((node, key))
            continue
        if hasattr(item, "__dict__") and not isinstance(item, (type, dict)):
            item = vars(item)
        if id(item) in seen or not isinstance(item, (dict, list, tuple)):
            continue
        seen.add(id(item))
        inside = item if isinstance(item, dict) else range(len(item))
        _find_generators(item, inside, seen, places)
