"""SAMCallback: schedules, what is perturbed and recorded, and skorch's contract."""

import inspect
import math
import pickle

import numpy as np
import pytest
import torch
from braindecode import EEGRegressor
from sklearn.base import clone
from skorch.callbacks import Callback

from braindecode_sam import SAM, SAMCallback, callbacks
from tests.optim.helpers import FAMILY

CALLBACKS = [getattr(callbacks, name) for name in callbacks.__all__]
HOOKS = [name for name in dir(Callback) if name.startswith("on_")]
RNG = np.random.default_rng(0)
X = RNG.normal(size=(20, 4, 200)).astype(np.float32)
Y = RNG.normal(size=20).astype(np.float32)


def fitted(callback, max_epochs=4, **options):
    defaults = {"optimizer": SAM, "optimizer__rho": 0.1, "batch_size": 5, "verbose": 0}
    net = EEGRegressor(
        options.pop("module", "EEGNet"),
        max_epochs=max_epochs,
        train_split=None,
        callbacks=[("sam", callback)],
        **(defaults | options),
    )
    net.fit(X, Y)
    return net


# The contract that skorch tests for all of its callbacks


@pytest.mark.parametrize("cls", CALLBACKS)
@pytest.mark.parametrize("hook", HOOKS)
def test_hooks_take_what_skorch_may_add(cls, hook):
    own = inspect.signature(getattr(cls, hook)).parameters
    base = inspect.signature(getattr(Callback, hook)).parameters
    assert "kwargs" in own
    assert list(base)[:2] == list(own)[:2]  # self and net


@pytest.mark.parametrize("cls", CALLBACKS)
def test_is_a_callback_that_sklearn_can_clone(cls):
    callback = cls()
    assert callback.initialize() is callback
    assert pickle.loads(pickle.dumps(callback)).get_params() == callback.get_params()
    parameters = list(inspect.signature(cls).parameters)
    assert sorted(callback.get_params()) == sorted(parameters)
    with pytest.raises(ValueError, match="Invalid parameter 'foo'"):
        callback.set_params(foo=123)


# Schedules


def by_formula(start, stop, first, epochs, shape):
    """Return rho of each epoch, from an independent formula."""
    rhos = np.zeros(epochs)
    t = np.linspace(0, 1, epochs - first)
    curves = {
        "constant": np.full_like(t, start),
        "linear": (1 - t) * start + t * stop,
        "cosine": stop + (start - stop) * np.cos(np.pi * t / 2) ** 2,
    }
    rhos[first:] = curves[shape]
    return rhos


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("start_epoch", [0, 2])
@pytest.mark.parametrize(("rho", "final_rho"), [(None, 0.0), (0.3, 0.05), (0.0, 0.2)])
def test_schedules(schedule, start_epoch, rho, final_rho):
    callback = SAMCallback(
        rho, schedule=schedule, final_rho=final_rho, start_epoch=start_epoch
    )
    net = fitted(callback, max_epochs=5)
    start = 0.1 if rho is None else rho
    expected = by_formula(start, final_rho, start_epoch, 5, schedule)
    np.testing.assert_allclose(net.history[:, "rho"], expected, atol=1e-15)


def test_a_callable_schedule_and_one_that_continues_in_partial_fit():
    net = fitted(SAMCallback(lambda epoch: 0.01 * epoch, start_epoch=1), max_epochs=2)
    net.partial_fit(X, Y[:, None])
    assert net.history[:, "rho"] == pytest.approx([0.0, 0.01, 0.02, 0.03])
    late = fitted(SAMCallback(schedule="linear"), max_epochs=2)
    late.partial_fit(X, Y[:, None])
    assert late.history[:, "rho"] == pytest.approx([0.1, 0.0, 0.0, 0.0])


@pytest.mark.parametrize("cls", FAMILY)
def test_epochs_at_rho_0_cost_one_pass(cls):
    passes = []
    net = EEGRegressor(
        "EEGNet",
        optimizer=cls,
        batch_size=5,
        max_epochs=3,
        train_split=None,
        verbose=0,
        callbacks=[SAMCallback(start_epoch=2)],
    )
    net.on_grad_computed = lambda net, **kwargs: passes.append(len(net.history))
    net.fit(X, Y)
    assert [passes.count(epoch) for epoch in (1, 2)] == [4, 4]
    some = {"LookSAM": {5}, "AESAM": set(range(4, 9)), "MomentumSAM": {4}}
    assert passes.count(3) in some.get(cls.__name__, {8})


def test_group_radii_stay_without_a_schedule_and_raise_with_one():
    groups = [("final_layer*", {"rho": 0.7})]
    net = fitted(SAMCallback(), optimizer__param_groups=groups)
    assert [g["rho"] for g in net.optimizer_.param_groups] == [0.7, 0.1]
    assert net.history[-1]["rho"] == 0.7
    with pytest.raises(ValueError, match=r"have different ones: \[0.7, 0.1\]"):
        fitted(SAMCallback(0.2), optimizer__param_groups=groups)


# What is perturbed


def test_perturb_norm_moves_normalization_layers_only():
    net = fitted(SAMCallback(perturb="norm"), module="EEGNeX")
    optimizer = net.optimizer_
    before = {n: p.detach().clone() for n, p in net.module_.named_parameters()}
    optimizer.first_step()
    moved = {
        n for n, p in net.module_.named_parameters() if not torch.equal(p, before[n])
    }
    optimizer.restore()
    norms = {
        f"{name}.{own}"
        for name, module in net.module_.named_modules()
        if isinstance(module, torch.nn.BatchNorm2d)
        for own in ("weight", "bias")
    }
    assert moved == norms
    net.set_params(callbacks__sam__perturb="all")
    net.partial_fit(X, Y[:, None])
    assert optimizer.param_groups[0]["perturbed"] is None


def test_by_default_the_optimizers_perturb_only_stays():
    net = fitted(SAMCallback(), max_epochs=1)
    layer = net.module_.final_layer
    net.optimizer_.perturb_only(layer.parameters())
    chosen = [group["perturbed"] for group in net.optimizer_.param_groups]
    net.partial_fit(X, Y[:, None])
    assert [group["perturbed"] for group in net.optimizer_.param_groups] == chosen
    net.set_params(callbacks__sam__perturb="all")
    net.partial_fit(X, Y[:, None])
    assert net.optimizer_.param_groups[0]["perturbed"] is None


# What is recorded


def test_records_what_the_optimizer_measured():
    net = fitted(SAMCallback(), max_epochs=2)
    last = net.history[-1, "batches", -1]
    optimizer = net.optimizer_
    sharpness = optimizer.last_perturbed_loss - optimizer.last_loss
    assert last["sharpness"] == sharpness.item()
    assert last["grad_norm"] == optimizer.last_grad_norm.item()
    assert last["rho"] == 0.1
    for name in ("sharpness", "rho", "grad_norm"):
        batches = net.history[-1, "batches", :, name]
        assert net.history[-1, name] == pytest.approx(np.mean(batches))
        assert type(net.history[-1, name]) is float


def test_print_log_shows_them(capsys):
    fitted(SAMCallback(), max_epochs=1, verbose=1)
    printed = capsys.readouterr().out.split()
    assert {"sharpness", "rho", "grad_norm"} <= set(printed)


def test_steps_that_were_not_perturbed_are_nan_and_do_not_count():
    net = fitted(SAMCallback(), max_epochs=1, optimizer__interval=3)
    sharpness = net.history[-1, "batches", :, "sharpness"]
    assert [math.isnan(s) for s in sharpness] == [False, True, True, False]
    assert net.history[-1, "sharpness"] == pytest.approx(np.nanmean(sharpness))
    net = fitted(SAMCallback(start_epoch=5), max_epochs=1)
    assert math.isnan(net.history[-1, "sharpness"])


@pytest.mark.filterwarnings("ignore:The training set has 20 example:UserWarning")
@pytest.mark.filterwarnings("ignore:No batch was trained on:UserWarning")
def test_epoch_without_batches_records_nothing():
    net = fitted(SAMCallback(), max_epochs=1, batch_size=64)
    assert "sharpness" not in net.history[-1]


def test_history_survives_a_file(tmp_path):
    net = fitted(SAMCallback(start_epoch=1), max_epochs=2)
    net.save_params(f_history=tmp_path / "history.json")
    net.load_params(f_history=tmp_path / "history.json")
    assert net.history[-1, "rho"] == 0.1


# Bad input


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"schedule": "step"},
            ValueError,
            "schedule must be one of 'constant', 'linear'",
        ),
        (
            {"perturb": "bias"},
            ValueError,
            "perturb must be one of 'all', 'norm', None, got 'bias'",
        ),
        (
            {"rho": -1},
            ValueError,
            "rho must be a number >= 0, a callable or None, got -1",
        ),
        (
            {"rho": "x"},
            TypeError,
            "rho must be a number >= 0, a callable or None, got 'x'",
        ),
        ({"final_rho": math.nan}, ValueError, "final_rho must be a finite number >= 0"),
        ({"start_epoch": -1}, ValueError, "start_epoch must be a finite number >= 0"),
        (
            {"rho": abs, "schedule": "linear"},
            ValueError,
            "schedule must be 'constant' then",
        ),
    ],
)
def test_refuses_options(options, error, message):
    with pytest.raises(error, match=message):
        fitted(SAMCallback(**options))


def test_a_callable_may_not_return_a_bad_radius():
    with pytest.raises(ValueError, match="rho must be a finite number >= 0, got"):
        fitted(SAMCallback(lambda epoch: -1))


def test_refuses_another_optimizer():
    net = EEGRegressor("EEGNet", optimizer=torch.optim.Adam, callbacks=[SAMCallback()])
    with pytest.raises(TypeError, match=r"is a SAM, got Adam.*base_optimizer=Adam"):
        net.fit(X, Y)


class NoNorm(torch.nn.Module):
    def __init__(self, n_chans, n_times, n_outputs):
        super().__init__()
        self.linear = torch.nn.Linear(n_chans * n_times, n_outputs)

    def forward(self, x):
        return self.linear(x.flatten(1))


def test_refuses_perturb_norm_without_norms():
    with pytest.raises(ValueError, match="the net has none with parameters"):
        fitted(SAMCallback(perturb="norm"), module=NoNorm)


def test_net_with_the_callback_can_be_cloned():
    net = clone(fitted(SAMCallback(0.2, schedule="cosine"), max_epochs=1))
    assert net.initialize().get_params()["callbacks__sam__schedule"] == "cosine"
