"""A callback that gives skorch nets a random_state."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, Self

import numpy as np
import torch
from skorch import NeuralNet
from skorch.callbacks import Callback

from braindecode_sam._arguments import check_integer
from braindecode_sam._random import (
    generator_states,
    own_generators,
    set_generator_states,
)
from braindecode_sam.callbacks._next_call import wrap_next_call


class SeedCallback(Callback):
    """Seed weight initialization, shuffling, augmentation and dropout.

    The callback seeds torch's, NumPy's and Python's global random number generators
    while ``fit`` builds the module and the criterion, and while it trains. In between
    and afterwards, it restores their previous states, even if an error is raised. Every
    ``fit`` of the net and of its clones draws the same numbers. With a fixed number of
    threads, ``cross_validate`` returns the same scores, bit for bit, in one process, in
    joblib's workers and on a cluster.

    Parameters
    ----------
    random_state : int, default=0
        Seed, at most 2**32 - 1.
    n_threads : int or None, default=None
        Number of threads that torch uses while the net is built, trained and used for
        predictions. Rounding errors of sums depend on it. None leaves it unchanged.

    Raises
    ------
    TypeError, ValueError
        When the net is initialized, if a parameter is out of its range.

    See Also
    --------
    braindecode_sam.callbacks.ResumableCheckpoint : Save and restore generators.

    Notes
    -----
    ``partial_fit`` and ``set_params`` on an initialized net do not seed. Generators
    that the net's augmentations hold are replaced by seeded ones when training begins.
    With joblib's threading backend, nets that train at the same time share the
    generators, so that results are not reproducible.

    Examples
    --------
    >>> from braindecode import EEGRegressor
    >>> from braindecode_sam import SAM
    >>> from braindecode_sam.callbacks import SeedCallback
    >>> seed = SeedCallback(0, n_threads=1)
    >>> net = EEGRegressor("EEGNeX", optimizer=SAM, callbacks=[("seed", seed)])
    >>> net = net.set_params(callbacks__seed__random_state=1)
    >>> net.get_params()["callbacks__seed__random_state"]
    1
    """

    def __init__(self, random_state: int = 0, n_threads: int | None = None) -> None:
        self.random_state = random_state
        self.n_threads = n_threads
        self.stream_: _Stream | None = None

    def initialize(self) -> Self:
        """Check the parameters, and seed the net that is being initialized."""
        check_integer("random_state", self.random_state, 0, 2**32 - 1)
        if self.n_threads is not None:
            check_integer("n_threads", self.n_threads, 1)
        self.stream_ = None
        net = _net_being_initialized()
        if net is not None:
            self.stream_ = _Stream(self.random_state)
            wrap_next_call(net, "_initialize_module", self._build_module)
            wrap_next_call(net, "_initialize_criterion", self._seeded)
        return self

    def on_train_begin(
        self, net: Any, X: Any = None, y: Any = None, **kwargs: Any
    ) -> None:
        """Seed the generators that the net's augmentations and loaders hold."""
        if self.stream_ is not None:  # otherwise this is a partial_fit
            places = own_generators(net)
            sequence = np.random.SeedSequence(self.random_state)
            seeds = map(int, sequence.generate_state(len(places)))
            for (container, key), seed in zip(places, seeds, strict=True):
                # Not in place, as it may be NumPy's global one or shared.
                is_numpy = isinstance(container[key], np.random.RandomState)
                kind = np.random.RandomState if is_numpy else _torch_generator
                container[key] = kind(seed)
        wrap_next_call(net, "fit_loop", self._train)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "stream_": None}

    # Wrappers of the methods that skorch calls next.

    def _build_module(
        self, net: Any, method: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> None:
        # Make it the last callback. Its on_train_begin wraps the method that is called
        # right after it, and on_train_end of the others finds the seeded generators.
        net.callbacks_.sort(key=lambda named: named[1] is self)
        self._seeded(net, method, *args, **kwargs)
        if self.n_threads is not None:
            for name in net._modules:
                module = getattr(net, name + "_")
                if isinstance(module, torch.nn.Module):
                    threads = _ForwardThreads(self.n_threads)
                    module.register_forward_pre_hook(threads.enter)
                    module.register_forward_hook(threads.leave, always_call=True)

    def _seeded(
        self, net: Any, method: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        with self.stream_ or contextlib.nullcontext(), _threads(self.n_threads):
            return method(*args, **kwargs)

    def _train(
        self, net: Any, method: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        with contextlib.ExitStack() as stack:
            stack.enter_context(_threads(self.n_threads))
            if self.stream_ is not None:
                stack.enter_context(self.stream_)
                self.stream_ = None
            result = method(*args, **kwargs)
            until_train_end = stack.pop_all()

        def end(net: Any, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            with until_train_end:
                return method(*args, **kwargs)

        wrap_next_call(net, "notify", end)  # of on_train_end
        return result


class _Stream:
    """Context in which all generators continue from a seed."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._inside: dict[str, Any] | None = None

    def __enter__(self) -> None:
        self._outside = generator_states()
        if self._inside is None:
            torch.manual_seed(self._seed)
            np.random.seed(self._seed)
            random.seed(self._seed)
        else:
            set_generator_states(self._inside)

    def __exit__(self, *exc_info: Any) -> None:
        self._inside = generator_states()
        set_generator_states(self._outside)


class _ForwardThreads:
    """Forward hooks that set the number of threads, for predictions."""

    def __init__(self, n_threads: int) -> None:
        self.n_threads = self._outside = n_threads

    def enter(self, module: Any, args: Any) -> None:
        if not torch.compiler.is_compiling():
            self._outside = torch.get_num_threads()
            _set_threads(self.n_threads)

    def leave(self, module: Any, args: Any, output: Any) -> None:
        if not torch.compiler.is_compiling():
            _set_threads(self._outside)


@contextlib.contextmanager
def _threads(n_threads: int | None) -> Iterator[None]:
    outside = torch.get_num_threads()
    _set_threads(outside if n_threads is None else n_threads)
    try:
        yield
    finally:
        _set_threads(outside)


def _set_threads(number: int) -> None:
    if number != torch.get_num_threads():
        torch.set_num_threads(number)


def _torch_generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _net_being_initialized() -> Any:
    """Find the net whose ``initialize`` is running.

    skorch initializes callbacks before modules, without a reference to the net.
    """
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        caller = frame.f_locals.get("self")
        if frame.f_code.co_name == "initialize" and isinstance(caller, NeuralNet):
            return caller
        frame = frame.f_back
    return None
