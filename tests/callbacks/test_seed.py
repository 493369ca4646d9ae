"""SeedCallback: what it seeds, and that it leaves no trace."""

import pickle
import random

import numpy as np
import pytest
import torch
from braindecode import EEGRegressor
from sklearn.base import clone
from skorch.callbacks import Callback

from braindecode_sam import SAM
from braindecode_sam.callbacks import SeedCallback, WindowCheck
from braindecode_sam.callbacks._generators import generator_states, set_generator_states
from tests.optim.helpers import assert_same

RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 4, 150)).astype(np.float32)
Y = RNG.normal(size=12).astype(np.float32)


class Raising(Callback):
    """Raise in a hook, after drawing from all generators."""

    def __init__(self, hook=None, error=RuntimeError):
        self.hook, self.error = hook, error

    def notify(self, hook):
        if hook == "on_batch_end":  # the other two may run outside the training
            torch.rand(3), np.random.rand(3), random.random()
        if hook == self.hook:
            raise self.error(hook)

    def on_train_begin(self, net, **kwargs):
        self.notify("on_train_begin")

    def on_batch_end(self, net, **kwargs):
        self.notify("on_batch_end")

    def on_train_end(self, net, **kwargs):
        self.notify("on_train_end")


def make_net(*callbacks, **options):
    defaults = {"max_epochs": 2, "batch_size": 6, "verbose": 0, "train_split": None}
    return EEGRegressor(
        options.pop("module", "FastEEGNet"), optimizer=SAM,
        callbacks=[("seed", SeedCallback(1, n_threads=1)), *callbacks],
        **(defaults | options),
    )  # fmt: skip


@pytest.fixture
def _nothing_is_left():
    """Check that the test leaves generators and threads as they were."""

    def draw():
        return torch.rand(2).tolist(), np.random.rand(2).tolist(), random.random()

    torch.set_num_threads(2)
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    expected = draw()
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    yield
    assert draw() == expected
    assert torch.get_num_threads() == 2


def weights(net):
    return {name: value.clone() for name, value in net.module_.state_dict().items()}


def is_same(first, net):
    return all(torch.equal(first[name], value) for name, value in weights(net).items())


@pytest.mark.usefixtures("_nothing_is_left")
def test_a_fit_leaves_nothing_behind():
    make_net(("draws", Raising())).fit(X, Y)


@pytest.mark.usefixtures("_nothing_is_left")
def test_initialize_alone_leaves_nothing_behind():
    net = make_net(module__n_chans=4, module__n_times=150, module__n_outputs=1)
    first = weights(net.initialize())
    assert_same(first, weights(clone(net).initialize()))
    SeedCallback().initialize()  # without a net


@pytest.mark.usefixtures("_nothing_is_left")
@pytest.mark.parametrize("hook", ["on_train_begin", "on_batch_end", "on_train_end"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_fit_that_raises_leaves_nothing_behind(hook, error):
    net = make_net(("raises", Raising(hook, error)))
    try:
        net.fit(X, Y)
    except error:
        pass
    else:
        assert (hook, error) == (
            "on_batch_end",
            KeyboardInterrupt,
        )  # which skorch catches
    clone(net).get_params()
    pickle.loads(pickle.dumps(net))


class NoModule(torch.nn.Module):
    def __init__(self, n_chans, n_times, n_outputs):
        raise MemoryError("no module")


@pytest.mark.usefixtures("_nothing_is_left")
def test_bad_data_and_a_module_that_cannot_be_built_leave_nothing_behind():
    with pytest.raises(ValueError, match="y is constant"):
        make_net(WindowCheck()).fit(X, np.ones(12, dtype=np.float32))
    with pytest.raises(MemoryError, match="no module"):
        make_net(module=NoModule).fit(X, Y)


@pytest.mark.usefixtures("_nothing_is_left")
def test_set_params_of_a_fitted_net_does_not_seed():
    net = make_net()
    net.fit(X, Y)
    net.set_params(callbacks__seed__random_state=3)
    net.set_params(callbacks__seed=SeedCallback(4))


def test_every_fit_draws_the_same_numbers_and_partial_fit_continues():
    net = make_net()
    net.fit(X, Y)
    first = weights(net)
    net.fit(X, Y)
    assert_same(first, weights(net))
    other = clone(net).set_params(callbacks__seed__random_state=2)
    other.fit(X, Y)
    assert not is_same(first, other)
    torch.manual_seed(0)
    net.partial_fit(X, Y[:, None])
    went_on = weights(net)
    net.fit(X, Y)
    torch.manual_seed(1)
    net.partial_fit(X, Y[:, None])
    assert not is_same(went_on, net)


@pytest.mark.parametrize("was_initialized", [True, False])
def test_generators_of_cuda_are_restored(was_initialized, monkeypatch):
    drawn = []
    cuda = {
        "is_initialized": lambda: was_initialized,
        "get_rng_state_all": lambda: ["as it was"],
        "set_rng_state_all": drawn.append,
        "manual_seed_all": drawn.append,
    }
    for name, function in cuda.items():
        monkeypatch.setattr(torch.cuda, name, function)
    torch.manual_seed(8)
    drawn.clear()  # manual_seed also seeds CUDA's
    states = generator_states()
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    set_generator_states(states)
    assert drawn == ([["as it was"]] if was_initialized else [8])


@pytest.mark.parametrize("n_threads", [1, 2])
def test_threads_while_a_net_trains_and_predicts_and_not_elsewhere(n_threads):
    seen = []

    class Watching(torch.nn.Linear):
        def __init__(self, n_chans, n_times, n_outputs):
            seen.append(("built", torch.get_num_threads()))
            super().__init__(n_chans * n_times, n_outputs)

        def forward(self, x):
            seen.append((self.training, torch.get_num_threads()))
            return super().forward(x.flatten(1))

    torch.set_num_threads(3 - n_threads)
    net = make_net(module=Watching).set_params(callbacks__seed__n_threads=n_threads)
    net.fit(X, Y)
    net.predict(X)
    assert {kind for kind, _ in seen} == {"built", True, False}
    assert {number for _, number in seen} == {n_threads}
    assert torch.get_num_threads() == 3 - n_threads
    net.partial_fit(X, Y[:, None])
    assert {number for _, number in seen} == {n_threads}
