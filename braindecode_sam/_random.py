"""States and seeds of the random number generators from which a training draws.

Nets are seeded in ``nets/_conventions.py``, and the fits of ``compare`` in
``comparison/_fits.py``.
"""

from __future__ import annotations

import contextlib
import random
import warnings
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


def generator_states(net: Any = None) -> dict[str, Any]:
    """Return the states of the global generators, and of a net's own.

    The global ones are torch's on all devices in use, NumPy's and Python's. The states
    consist of tensors and builtins.
    """
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    places = [] if net is None else _own_generators(net)
    return {
        "torch": torch.get_rng_state(),
        "cuda": cuda,
        "numpy": _state_of(np.random.mtrand._rand),
        "python": random.getstate(),
        "own": [_state_of(container[key]) for container, key in places],
    }


def set_generator_states(states: dict[str, Any], net: Any = None) -> None:
    """Restore states that :func:`generator_states` returned.

    Warns
    -----
    UserWarning
        If the net holds another number of generators. Then they keep their states.
    """
    torch.set_rng_state(states["torch"])
    if states["cuda"]:
        torch.cuda.set_rng_state_all(states["cuda"])
    elif torch.cuda.is_initialized():  # initialized since then: seed it anew
        torch.cuda.manual_seed_all(torch.initial_seed())
    places = [] if net is None else _own_generators(net)
    if net is not None and len(places) != len(states["own"]):
        warnings.warn(
            f"The net holds {len(places)} random number generators, of which"
            f" {len(states['own'])} were saved. They are not restored.",
            stacklevel=2,
        )
        places = []
    for (container, key), state in zip(places, states["own"], strict=False):
        _set_state(container[key], state)
    # Last, as a net may hold NumPy's global generator.
    _set_state(np.random.mtrand._rand, states["numpy"])
    random.setstate(states["python"])


def _state_of(generator: np.random.RandomState | torch.Generator) -> Any:
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    name, key, *rest = cast(tuple[Any, ...], generator.get_state())
    return [name, torch.as_tensor(key.astype(np.int64)), *rest]


def _set_state(generator: np.random.RandomState | torch.Generator, state: Any) -> None:
    if isinstance(generator, torch.Generator):
        generator.set_state(state)
    else:
        name, key, *rest = state
        generator.set_state((name, key.numpy().astype(np.uint32), *rest))


def _own_generators(net: Any) -> list[tuple[Any, Any]]:
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
    places = _own_generators(net)
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
        # A callback may hold the data, which are not the net's.
        is_other = isinstance(item, (type, dict, torch.utils.data.Dataset))
        if hasattr(item, "__dict__") and not is_other:
            item = vars(item)
        if id(item) in seen or not isinstance(item, (dict, list, tuple)):
            continue
        seen.add(id(item))
        inside = item if isinstance(item, dict) else range(len(item))
        _find_generators(item, inside, seen, places)
