"""What we would offer to skorch: each marked test fails until it is fixed."""

import contextlib

import numpy as np
import pytest
import torch
from sklearn import config_context
from sklearn.model_selection import GroupKFold
from skorch import NeuralNetRegressor
from skorch.callbacks import Callback, Freezer
from skorch.dataset import ValidSplit

from tests.upstream.mark import until_fixed

X = np.random.default_rng(0).normal(size=(8, 3)).astype("float32")
Y = np.arange(8, dtype="float32")[:, None]
SUBJECTS = ["a", "a", "b", "b", "c", "c", "d", "d"]


class Model(torch.nn.Module):
    """Predict one value from three features."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 1)

    def forward(self, X):
        return self.layer(X)


def make_net(cls=NeuralNetRegressor, **options):
    return cls(Model, max_epochs=1, verbose=0, **{"train_split": None, **options})


@until_fixed("skorch", "remove groups_ from nets/_conventions.py", TypeError)
def test_groups_reach_the_train_split():
    net = make_net(train_split=ValidSplit(GroupKFold(2)))
    with config_context(enable_metadata_routing=True):
        net.fit(X, Y, groups=SUBJECTS)


@until_fixed(
    "skorch",
    "remove _check_patterns from callbacks/window_check.py",
    pytest.fail.Exception,
)
def test_a_pattern_that_matches_no_parameter_is_refused():
    net = make_net(optimizer__param_groups=[("encoder*", {"lr": 0.0})])
    with pytest.raises(Exception, match="encoder"):
        net.initialize()


@until_fixed(
    "skorch", "remove this entry from tests/upstream/README.rst", pytest.fail.Exception
)
def test_freezing_layers_that_are_not_there_is_refused():
    net = make_net(callbacks=[Freezer("encoder*")])
    with pytest.raises(Exception, match="encoder"):
        net.fit(X, Y)


@until_fixed("skorch", "remove its entry from docs/limits.rst")
def test_options_of_an_optimizer_outlive_the_next_fit():
    net = make_net(optimizer__momentum=0.0).initialize()
    net.set_params(optimizer__momentum=0.9)
    net.fit(X, Y)
    assert net.optimizer_.param_groups[0]["momentum"] == 0.9


@until_fixed("skorch", "remove its entry from tests/upstream/README.rst", ValueError)
def test_a_callback_can_be_switched_off_twice():
    net = make_net().initialize()
    net.set_params(callbacks__print_log=None)
    net.set_params(callbacks__print_log=None)


@until_fixed(
    "skorch", "remove SAMAccelerateMixin._step_optimizer from amp.py", TypeError
)
def test_optimizers_get_their_closure_under_accelerate():
    import accelerate
    from skorch.hf import AccelerateMixin

    class Net(AccelerateMixin, NeuralNetRegressor):
        pass

    accelerator = accelerate.Accelerator(cpu=True)
    try:
        make_net(Net, optimizer=torch.optim.LBFGS, accelerator=accelerator).fit(X, Y)
    finally:  # another precision can be set in this process again
        accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)


class Failing(Callback):
    """Fail after the first batch, and record which hooks were called."""

    def __init__(self, called):
        self.called = called

    def on_batch_end(self, net, **kwargs):
        raise ZeroDivisionError

    def on_train_end(self, net, **kwargs):
        self.called.append("on_train_end")


@until_fixed("skorch", "remove its entry from tests/upstream/README.rst")
def test_a_hook_runs_when_training_fails():
    called = []
    with contextlib.suppress(ZeroDivisionError):
        make_net(callbacks=[Failing(called)]).fit(X, Y)
    assert called


@until_fixed("skorch", "remove its entry from tests/upstream/README.rst")
def test_a_hook_runs_before_the_module_is_built():
    net, called = make_net(), []
    net.notify = lambda hook, **kwargs: called.append(hook)
    net.initialize()
    assert called
