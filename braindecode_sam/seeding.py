"""Seeds for nets, which have no ``random_state``, and the state of all generators."""

import random

import numpy as np
import torch
from skorch.callbacks import Callback

from braindecode_sam._arguments import check_integer


class SeedCallback(Callback):
    """Seed everything that is drawn for a net, from its first weights on.

    skorch initializes callbacks before modules. This one then seeds torch's generators,
    NumPy's global one and Python's, so that initialization, shuffling, augmentation and
    dropout are the same in every ``fit`` of the net and of its clones: with the same
    number of threads, ``cross_validate`` gives the same scores to the last bit in one
    process, in joblib's workers and on a cluster. When training ends, the generators
    go on from where they were before.

    Parameters
    ----------
    random_state : int, default=0
        Seed, at most 2**32 - 1.
    n_threads : int or None, default=None
        Threads that torch computes with in this process, from now on: sums over
        threads depend on their number in the last bits. None leaves it as it is.

    Raises
    ------
    TypeError, ValueError
        When the net is initialized, if one of these is not such a number.

    Notes
    -----
    ``partial_fit`` goes on without seeding. With joblib's threading backend the nets of
    all threads draw from the same generators, so that nothing can be promised there.

    Examples
    --------
    >>> from braindecode import EEGRegressor
    >>> from braindecode_sam import SAM
    >>> from braindecode_sam.seeding import SeedCallback
    >>> net = EEGRegressor(
    ...     "EEGNeX", optimizer=SAM, callbacks=[("seed", SeedCallback(0, n_threads=1))]
    ... )
    >>> net.set_params(callbacks__seed__random_state=1).get_params()[
    ...     "callbacks__seed__random_state"]
    1
    """

    def __init__(self, random_state=0, n_threads=None):
        self.random_state = random_state
        self.n_threads = n_threads
        self.before_ = None

    def initialize(self):
        """Seed all generators; skorch calls this before it builds the module."""
        seed = check_integer("random_state", self.random_state, 0, 2**32 - 1)
        if self.n_threads is not None:
            torch.set_num_threads(check_integer("n_threads", self.n_threads, 1))
        self.before_ = generator_states()
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        return self

    def on_train_begin(self, net, X=None, y=None, **kwargs):
        """Seed the generators that the net's augmentations and loaders keep."""
        if self.before_ is not None:  # else this is a partial_fit
            places = own_generators(net)
            seeds = np.random.SeedSequence(self.random_state).generate_state(
                len(places)
            )
            for (container, key), seed in zip(places, map(int, seeds), strict=True):
                # Not in place: it may be NumPy's global one, or shared.
                is_numpy = isinstance(container[key], np.random.RandomState)
                kind = np.random.RandomState if is_numpy else _torch_generator
                container[key] = kind(seed)

    def on_train_end(self, net, X=None, y=None, **kwargs):
        """Let the generators go on from where they were before."""
        before, self.before_ = self.before_, None
        if before is not None:
            set_generator_states(before)

    def __getstate__(self):
        return {**self.__dict__, "before_": None}


def _torch_generator(seed):
    return torch.Generator().manual_seed(seed)


def own_generators(net):
    """Find the generators that a net's parameters keep, say in its augmentations.

    braindecode's transforms keep NumPy's global generator or, once scikit-learn has
    cloned the net, a copy of it.

    Parameters
    ----------
    net : skorch.NeuralNet
        With its parameters.

    Returns
    -------
    places : list of tuple
        Containers and keys, so that ``container[key]`` is a RandomState or a
        torch.Generator; the same one may be in several places.
    """
    places = []
    _find_generators(net.get_params(deep=False), set(), places)
    return places


def _find_generators(node, seen, places):
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


def generator_states():
    """Read torch's generators, on all devices in use, NumPy's and Python's.

    Returns
    -------
    states : dict
        Of tensors and builtins.
    """
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return {
        "torch": torch.get_rng_state(),
        "cuda": cuda,
        "numpy": numpy_state(np.random.mtrand._rand),
        "python": random.getstate(),
    }


def set_generator_states(states):
    """Set what :func:`generator_states` gave."""
    torch.set_rng_state(states["torch"])
    if states["cuda"]:
        torch.cuda.set_rng_state_all(states["cuda"])
    set_numpy_state(np.random.mtrand._rand, states["numpy"])
    random.setstate(states["python"])


def numpy_state(generator):
    """Give the state of a RandomState in tensors and builtins."""
    name, key, *rest = generator.get_state()
    return [name, torch.as_tensor(key.astype(np.int64)), *rest]


def set_numpy_state(generator, state):
    """Set what :func:`numpy_state` gave."""
    name, key, *rest = state
    generator.set_state((name, key.numpy().astype(np.uint32), *rest))
