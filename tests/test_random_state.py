"""random_state and n_threads of nets: what they set, and that they leave no trace."""

import functools
import pickle
import random

import numpy as np
import pytest
import torch
from sklearn.base import clone
from skorch.callbacks import Callback

from braindecode_sam.callbacks import WindowCheck
from braindecode_sam.nets import Classifier, Regressor
from tests.optim.helpers import assert_same
from tests.worker_parts import (
    Small,
    X,
    Y,
    augmentation,
    is_same,
    make_net,
    state_of,
)


class Raising(Callback):
    """Draw from all generators after each batch, and raise in a hook."""

    def __init__(self, hook=None, error=RuntimeError):
        self.hook, self.error = hook, error

    def notify(self, hook, net, **kwargs):
        if hook == "on_batch_end":  # the other two may run outside the training
            self.drawn_ = draw()
        if hook == self.hook:
            raise self.error(hook)

    on_train_begin = functools.partialmethod(notify, "on_train_begin")
    on_batch_end = functools.partialmethod(notify, "on_batch_end")
    on_train_end = functools.partialmethod(notify, "on_train_end")


def drawn(seed):
    for function in (torch.manual_seed, np.random.seed, random.seed):
        function(seed)
    return draw()


def draw():
    return torch.rand(2).tolist(), np.random.rand(2).tolist(), random.random()


@pytest.fixture
def _nothing_is_left():
    """Check that the test leaves generators and threads as they were."""
    torch.set_num_threads(2)
    drawn(5)
    expected = draw()
    drawn(5)
    yield
    assert draw() == expected
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("_nothing_is_left")
def test_fit_initialize_and_set_params_leave_nothing_behind():
    shape = {"module__n_chans": 4, "module__n_times": 64, "module__n_outputs": 1}
    first, second = (make_net(**shape).initialize() for _ in range(2))
    assert_same(state_of(first), state_of(second))
    net = make_net(("draws", Raising()))
    net.fit(X, Y)
    net.set_params(random_state=3, module__settings=None)  # builds the module again


@pytest.mark.usefixtures("_nothing_is_left")
@pytest.mark.parametrize(
    ("hook", "error"),
    [("on_train_begin", RuntimeError), ("on_batch_end", RuntimeError),
     ("on_batch_end", KeyboardInterrupt), ("on_train_end", KeyboardInterrupt)],
)  # fmt: skip
def test_a_fit_that_raises_leaves_nothing_behind(hook, error):
    net = make_net(("raises", Raising(hook, error)), module="FastEEGNet")
    if (hook, error) == ("on_batch_end", KeyboardInterrupt):  # which skorch catches
        net.fit(X, Y)
    else:
        with pytest.raises(error):
            net.fit(X, Y)
    clone(net).get_params()
    pickle.loads(pickle.dumps(net))


class NoModule(torch.nn.Module):
    def __init__(self, n_chans, n_times, n_outputs):
        raise MemoryError("no module")


@pytest.mark.usefixtures("_nothing_is_left")
def test_bad_data_and_a_module_that_cannot_be_built_leave_nothing_behind():
    with pytest.raises(ValueError, match="y is constant"):
        make_net(WindowCheck()).fit(X, np.ones(36, dtype=np.float32))
    with pytest.raises(MemoryError, match="no module"):
        make_net(module=NoModule).fit(X, Y)


def test_every_fit_draws_the_same_numbers_and_partial_fit_continues():
    """Initial weights, dropout, shuffling, and augmentation by its own generator."""
    nets = []
    for seed in (1, 2):
        drawn(seed)
        nets.append(make_net(("draws", Raising()), **augmentation()))
        nets[-1].fit(X, Y)
    first = state_of(nets[0])
    assert_same(first, state_of(nets[1]))
    draws = [dict(net.callbacks_)["draws"].drawn_ for net in nets]
    assert draws[0] == draws[1]
    nets[0].fit(X, Y)
    assert_same(first, state_of(nets[0]))
    other = clone(make_net()).set_params(random_state=np.int64(2))
    other.fit(X, Y)
    assert not is_same(first, state_of(other))
    for seed, net in enumerate(nets):
        drawn(seed)
        net.partial_fit(X, Y[:, None])
    assert not is_same(state_of(nets[0]), state_of(nets[1]))


@pytest.mark.parametrize("n_threads", [1, 2])
def test_threads_while_a_net_trains_and_predicts_and_not_elsewhere(n_threads):
    class Watching(Small):
        def __init__(self, n_chans, n_times, n_outputs):
            seen.append(("built", torch.get_num_threads()))
            super().__init__(n_chans, n_times, n_outputs)

        def forward(self, x):
            seen.append((self.training, torch.get_num_threads()))
            return super().forward(x)

    seen = []
    torch.set_num_threads(3 - n_threads)
    net = make_net(module=Watching, max_epochs=1, n_threads=n_threads)
    net.fit(X[:6], Y[:6])
    net.predict(X[:6])
    assert torch.get_num_threads() == 3 - n_threads
    net.partial_fit(X[:6], Y[:6, None])
    assert set(seen) == {(kind, n_threads) for kind in ("built", True, False)}


def test_initialize_and_then_partial_fit_is_fit():
    shape = {"module__n_chans": 4, "module__n_times": 64, "module__n_outputs": 1}
    one, other = (make_net(**augmentation(), **shape) for _ in range(2))
    other.initialize()
    torch.manual_seed(9)
    assert_same(state_of(one.fit(X, Y)), state_of(other.partial_fit(X, Y)))


def test_a_generator_of_the_loader_is_seeded_too():
    def loader(seed):
        generator = torch.Generator().manual_seed(seed)
        return {"iterator_train__generator": generator}

    one, other = (make_net(**loader(seed)).fit(X, Y) for seed in (3, 4))
    assert_same(state_of(one), state_of(other))


def test_the_text_of_a_net_shows_what_it_depends_on():
    net = make_net(random_state=3, lr=0.2)
    assert "random_state=3" in repr(net)
    assert "lr=0.2" in repr(net)
    assert repr(net) == repr(clone(net)) == repr(clone(net).fit(X, Y))
    assert repr(net) != repr(clone(net).set_params(random_state=4))
    for cls in (Classifier, Regressor):
        assert repr(clone(cls("EEGNet"))) == f"{cls.__name__}(module='EEGNet')"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"random_state": -1}, ValueError, "random_state must be .*>= 0 .*, got -1"),
        ({"random_state": 2**32}, ValueError, "<= 4294967295, got 4294967296"),
        ({"random_state": "a"}, TypeError, "random_state must be .*, got 'a'"),
        ({"n_threads": 0}, ValueError, "n_threads must be an integer >= 1, got 0"),
        ({"n_threads": "all"}, TypeError, "n_threads must be .*, got 'all'"),
    ],
)
def test_refuses(options, error, message):
    with pytest.raises(error, match=message):
        make_net(**options).fit(X, Y)
