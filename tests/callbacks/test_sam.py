"""SAMCallback: schedules, what is perturbed and recorded, and skorch's contract."""

import inspect
import math
import pickle

import numpy as np
import pytest
import torch
from braindecode import EEGRegressor
from skorch import NeuralNet
from skorch.callbacks import Callback

from braindecode_sam import SAM, SAMCallback, callbacks
from braindecode_sam.nets import Regressor

RNG = np.random.default_rng(0)
X = RNG.normal(size=(20, 4, 32)).astype(np.float32)
Y = RNG.normal(size=20).astype(np.float32)


class Normed(torch.nn.Module):
    def __init__(self, n_chans, n_times, n_outputs):
        super().__init__()
        self.norms = torch.nn.Sequential(
            torch.nn.LayerNorm(n_times), torch.nn.BatchNorm1d(n_chans)
        )
        self.last = torch.nn.Linear(n_chans * n_times, n_outputs)

    def forward(self, x):
        return self.last(self.norms(x).flatten(1))


def fitted(callback, max_epochs=4, **options):
    defaults = {"optimizer": SAM, "optimizer__rho": 0.1, "batch_size": 5, "verbose": 0}
    net = Regressor(
        options.pop("module", Normed), max_epochs=max_epochs, train_split=None,
        callbacks=[("sam", callback)], random_state=0, n_threads=1,
        **(defaults | options),
    )  # fmt: skip
    net.fit(X, Y)
    return net


@pytest.mark.parametrize("name", callbacks.__all__)
def test_all_callbacks_keep_the_contract_of_skorch_and_sklearn(name):
    cls = getattr(callbacks, name)
    for hook in (name for name in dir(Callback) if name.startswith("on_")):
        own = inspect.signature(getattr(cls, hook)).parameters
        base = inspect.signature(getattr(Callback, hook)).parameters
        assert "kwargs" in own  # for what skorch may add
        assert list(base)[:2] == list(own)[:2]  # self and net
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


@pytest.mark.parametrize(
    ("schedule", "first", "rho", "final_rho"),
    [("constant", 2, None, 0.0), ("constant", 0, 0.3, 0.05), ("linear", 0, None, 0.0),
     ("linear", 2, 0.0, 0.2), ("cosine", 0, 0.3, 0.05), ("cosine", 2, None, 0.0)],
)  # fmt: skip
def test_schedules(schedule, first, rho, final_rho):
    callback = SAMCallback(
        rho, schedule=schedule, final_rho=final_rho, start_epoch=first
    )
    net = fitted(callback, max_epochs=5)
    expected = by_formula(0.1 if rho is None else rho, final_rho, first, 5, schedule)
    np.testing.assert_allclose(net.history[:, "rho"], expected, atol=1e-15)


def test_a_callable_schedule_and_one_that_continues_in_partial_fit():
    net = fitted(SAMCallback(lambda epoch: 0.01 * epoch, start_epoch=1), max_epochs=2)
    net.partial_fit(X, Y[:, None])
    assert net.history[:, "rho"] == pytest.approx([0.0, 0.01, 0.02, 0.03])
    late = fitted(SAMCallback(schedule="linear"), max_epochs=2)
    late.partial_fit(X, Y[:, None])
    assert late.history[:, "rho"] == pytest.approx([0.1, 0.0, 0.0, 0.0])


def test_group_radii_stay_without_a_schedule_and_raise_with_one():
    groups = [("last*", {"rho": 0.7})]
    net = fitted(SAMCallback(), optimizer__param_groups=groups)
    assert [g["rho"] for g in net.optimizer_.param_groups] == [0.7, 0.1]
    assert net.history[-1]["rho"] == 0.7
    with pytest.raises(ValueError, match=r"have different ones: \[0.7, 0.1\]"):
        fitted(SAMCallback(0.2), optimizer__param_groups=groups)


def test_a_base_optimizer_with_a_rho_of_its_own_keeps_it():
    base = {"optimizer__base_optimizer": torch.optim.Adadelta}
    net = fitted(SAMCallback(schedule="linear"), max_epochs=3, **base)
    assert net.history[:, "rho"] == pytest.approx([0.1, 0.05, 0.0])
    assert net.optimizer_.base_optimizer.param_groups[0]["rho"] == 0.9


# What is perturbed


def moved_by(net):
    before = {n: p.detach().clone() for n, p in net.module_.named_parameters()}
    net.optimizer_.first_step()
    named = list(net.module_.named_parameters())
    moved = {name for name, p in named if not torch.equal(p, before[name])}
    net.optimizer_.restore()
    return moved


def test_what_is_perturbed():
    """By default, what the optimizer's perturb_only chose."""
    everything = {f"{n}.{own}" for n in ("norms.0", "norms.1", "last") for own in
                  ("weight", "bias")}  # fmt: skip
    net = fitted(SAMCallback(perturb="norm"))
    assert moved_by(net) == {name for name in everything if "norms" in name}
    net.set_params(callbacks__sam__perturb="all")
    net.partial_fit(X, Y[:, None])
    assert moved_by(net) == everything
    net.optimizer_.perturb_only(net.module_.last.parameters())
    net.set_params(callbacks__sam__perturb=None)
    net.partial_fit(X, Y[:, None])
    assert moved_by(net) == {"last.weight", "last.bias"}


# What is recorded


def test_records_what_the_optimizer_measured(capsys):
    net = fitted(SAMCallback(), max_epochs=2, verbose=1)
    last = net.history[-1, "batches", -1]
    optimizer = net.optimizer_
    sharpness = optimizer.last_perturbed_loss - optimizer.last_loss
    assert last["sharpness"] == sharpness.item()
    assert last["grad_norm"] == optimizer.last_grad_norm.item()
    assert last["rho"] == 0.1
    printed = capsys.readouterr().out.split()
    for name in ("sharpness", "rho", "grad_norm"):
        batches = net.history[-1, "batches", :, name]
        assert net.history[-1, name] == pytest.approx(np.mean(batches))
        assert type(net.history[-1, name]) is float  # which JSON can hold
        assert name in printed


def test_steps_that_were_not_perturbed_are_nan_and_do_not_count():
    net = fitted(SAMCallback(), max_epochs=1, optimizer__interval=3)
    sharpness = net.history[-1, "batches", :, "sharpness"]
    assert [math.isnan(s) for s in sharpness] == [False, True, True, False]
    assert net.history[-1, "sharpness"] == pytest.approx(np.nanmean(sharpness))
    passes = []
    with pytest.warns(UserWarning, match="start_epoch=1, .* but max_epochs=1"):
        late = fitted(SAMCallback(start_epoch=1), max_epochs=1)
    assert math.isnan(late.history[-1, "sharpness"])
    late.set_params(callbacks__sam__start_epoch=9)
    late.module_.register_forward_hook(lambda *args: passes.append(None))
    with pytest.warns(UserWarning, match="start_epoch=9"):
        late.partial_fit(X, Y[:, None], epochs=1)
    assert len(passes) == 4  # one in each batch


class Stop(Callback):
    def on_epoch_end(self, net, **kwargs):
        raise KeyboardInterrupt


def test_a_training_that_was_stopped_before_the_first_perturbation_is_warned_of():
    stop = [("stop", Stop()), ("sam", SAMCallback(start_epoch=2))]
    net = EEGRegressor(
        Normed, optimizer=SAM, max_epochs=4, batch_size=5, train_split=None,
        callbacks=stop, verbose=0,
    )  # fmt: skip
    with pytest.warns(UserWarning, match="but training ended after 1 epochs"):
        net.fit(X, Y)


@pytest.mark.filterwarnings("ignore:The training set has 20 example:UserWarning")
def test_an_epoch_without_batches_records_nothing():
    net = fitted(SAMCallback(), max_epochs=1, batch_size=64)
    assert "sharpness" not in net.history[-1]


class Twice(Normed):
    def forward(self, x):
        return super().forward(x), x


class FirstOnly(torch.nn.MSELoss):
    def forward(self, y_pred, y):
        return super().forward(y_pred[0], y)


def test_a_module_may_return_a_tuple():
    net = NeuralNet(
        Twice, FirstOnly, optimizer=SAM, max_epochs=1, train_split=None, verbose=0,
        module__n_chans=4, module__n_times=32, module__n_outputs=1,
        callbacks=[SAMCallback()],
    )  # fmt: skip
    net.fit(X, Y[:, None])
    assert math.isfinite(net.history[-1]["sharpness"])


# Bad input


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"schedule": "step"}, ValueError, "schedule must be one of 'constant', 'line"),
        ({"perturb": "bias"}, ValueError, "perturb must be .*, None, got 'bias'"),
        ({"rho": -1}, ValueError, "rho must be a number .* or None, got -1"),
        ({"rho": "x"}, TypeError, "rho must be a number .* or None, got 'x'"),
        ({"rho": lambda epoch: -1}, ValueError, "rho must be a finite number >= 0, go"),
        ({"final_rho": math.nan}, ValueError, "final_rho must be a finite number >= 0"),
        ({"start_epoch": -1}, ValueError, "start_epoch must be a finite number >= 0"),
        ({"rho": abs, "schedule": "linear"}, ValueError, "must be 'constant' then"),
    ],
)
def test_refuses_options(options, error, message):
    with pytest.raises(error, match=message):
        fitted(SAMCallback(**options))


class NoNorm(Normed):
    def __init__(self, n_chans, n_times, n_outputs):
        super().__init__(n_chans, n_times, n_outputs)
        self.norms = torch.nn.Identity()


def test_refuses_another_optimizer_and_a_net_without_norms():
    with pytest.raises(TypeError, match=r"is a SAM, got Adam.*base_optimizer=Adam"):
        EEGRegressor(
            "EEGNet", optimizer=torch.optim.Adam, callbacks=[SAMCallback()]
        ).fit(X, Y)
    with pytest.raises(ValueError, match="the net has none with parameters"):
        fitted(SAMCallback(perturb="norm"), module=NoNorm)
