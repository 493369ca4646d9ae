"""SAM under accelerate, and with a gradient scaler."""

import accelerate
import numpy as np
import pytest
import torch
from braindecode import EEGClassifier, EEGRegressor
from skorch.callbacks import Callback, LRScheduler
from skorch.hf import AccelerateMixin

from braindecode_sam import SAM, SAMCallback
from braindecode_sam.amp import SAMAccelerateMixin, scaled_step
from braindecode_sam.optim import FriendlySAM, MomentumSAM
from tests.optim.helpers import Problem, Recording, assert_same

RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 4, 100)).astype(np.float32)
Y = RNG.normal(size=24).astype(np.float32)
NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


class Regressor(SAMAccelerateMixin, EEGRegressor):
    """The class of the documentation."""


class Classifier(SAMAccelerateMixin, EEGClassifier):
    """The same for classification."""


def make_net(cls=Regressor, optimizer=SAM, mixed_precision="no", **options):
    options |= {} if cls is EEGRegressor else {
        "accelerator": accelerate.Accelerator(
            cpu=mixed_precision != "fp16", mixed_precision=mixed_precision,
            gradient_accumulation_steps=options.pop("accumulate", 1),
        )
    }  # fmt: skip
    defaults = {"max_epochs": 2, "batch_size": 6, "train_split": None, "verbose": 0}
    return cls("FastEEGNet", optimizer=optimizer, **(defaults | options))


@pytest.fixture(autouse=True)
def _fresh_accelerator():
    """Reset accelerate's global state, which refuses a second precision."""
    yield
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)


def fit(net, y=Y):
    torch.manual_seed(3)
    net.fit(X, y)
    return net


class Scaled(Callback):
    """Give the accelerator a scaler that works on a CPU."""

    def __init__(self, scale):
        self.scale = scale

    def on_train_begin(self, net, X=None, y=None, **kwargs):
        scaler = torch.amp.GradScaler("cpu", init_scale=self.scale)
        net.accelerator.scaler = net.optimizer_.scaler = scaler


@pytest.mark.parametrize("cls", [SAM, FriendlySAM])
@pytest.mark.parametrize("scaled", [[], [Scaled(2.0**12)]], ids=["", "scaled"])
def test_full_precision_equals_training_without_accelerate(cls, scaled):
    callback = SAMCallback(schedule="linear")
    plain = fit(make_net(EEGRegressor, cls, callbacks=[callback]))
    net = fit(make_net(Regressor, cls, callbacks=[callback, *scaled]))
    assert_same(plain.module_.state_dict(), net.module_.state_dict())
    name = "sharpness"
    assert str(plain.history[:, name]) == str(net.history[:, name])
    assert not net.accelerator.optimizer_step_was_skipped


@pytest.mark.parametrize("cls", [SAM, FriendlySAM])
def test_bfloat16_trains_nearly_like_float32(cls):
    net = fit(make_net(Regressor, cls, mixed_precision="bf16", max_epochs=3))
    assert np.isfinite(net.history[:, "train_loss"]).all()
    plain = fit(make_net(EEGRegressor, cls, max_epochs=3))
    losses = net.history[:, "train_loss"], plain.history[:, "train_loss"]
    np.testing.assert_allclose(*losses, rtol=0.1)
    assert losses[0] != losses[1]  # it is another precision


def test_classifier_and_scheduler():
    one_cycle = torch.optim.lr_scheduler.OneCycleLR
    schedule = LRScheduler(one_cycle, max_lr=0.1, total_steps=9, step_every="batch")
    net = make_net(Classifier, mixed_precision="bf16", callbacks=[schedule])
    net = fit(net, (Y > 0).astype(int))
    assert net.predict(X).shape == (24,)
    rates = net.history[:, "batches", :, "event_lr"]
    assert rates[0][0] < rates[0][1] < rates[1][0]


def test_refuses_accumulation_of_gradients():
    with pytest.raises(ValueError, match="gradient_accumulation_steps=1, got 2"):
        fit(make_net(accumulate=2))


def test_the_error_under_skorchs_mixin_names_the_alternative():
    class Other(AccelerateMixin, EEGRegressor):
        pass

    with pytest.raises(TypeError, match="use SAMAccelerateMixin"):
        fit(make_net(Other))


def test_the_mixin_informs_schedulers_of_skipped_steps():
    schedule = LRScheduler(
        torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5, step_every="batch"
    )
    callbacks = [Scaled(float("inf")), schedule]
    net = fit(make_net(callbacks=callbacks, max_epochs=1))
    assert net.accelerator.optimizer_step_was_skipped
    assert net.optimizer_.param_groups[0]["lr"] == 0.01
    assert net.optimizer_.optimizer.n_steps == 0


# float16: accelerate supports it only on GPUs, torch's scaler on any device


def scaled(problem, optimizer, scaler, spoil=lambda params: None):
    def closure():
        optimizer.zero_grad()
        loss = problem.loss()
        scaler.scale(loss).backward()
        spoil(list(problem.net.parameters()))
        return loss

    return scaled_step(optimizer, closure, scaler)


@pytest.mark.parametrize("cls", [SAM, FriendlySAM, MomentumSAM])
def test_a_power_of_two_as_scale_changes_nothing(cls):
    states = []
    for is_scaled in (False, True):
        torch.manual_seed(0)
        problem = Problem()
        optimizer = cls(problem.net.parameters(), lr=0.01)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12, growth_interval=2)
        for _ in range(6):
            if is_scaled:
                assert scaled(problem, optimizer, scaler)
            else:
                problem.train(optimizer, 1)
        states.append(problem.snapshot())
    assert_same(*states)
    assert scaler.get_scale() > 2.0**12


@pytest.mark.parametrize("cls", [SAM, FriendlySAM])
def test_a_step_that_overflows_is_skipped_and_the_scale_decreases(cls):
    problem = Problem()
    optimizer = cls(problem.net.parameters(), lr=0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    assert scaled(problem, optimizer, scaler)
    weights = dict(problem.net.named_parameters())
    before = {name: p.detach().clone() for name, p in weights.items()}
    state = repr(optimizer.state_dict())
    assert not scaled(problem, optimizer, scaler, lambda ps: ps[0].grad.mul_(torch.inf))
    assert_same(weights, before)
    assert repr(optimizer.state_dict()) == state
    assert scaler.get_scale() == 512
    assert scaled(problem, optimizer, scaler)


@pytest.mark.parametrize("value", [torch.nan, -torch.inf, 3e38])
@pytest.mark.parametrize("sparse", [False, True])
def test_one_value_decides_whether_gradients_are_finite(value, sparse):
    def spoil(params):
        for p in params:
            p.grad = torch.full_like(p, 3e38)  # the square of which is not finite
        params[1].grad[2] = value
        if sparse:
            params[1].grad = params[1].grad.to_sparse()

    problem = Problem()
    problem.net.register_parameter("unused", torch.nn.Parameter(torch.ones(2)))
    optimizer = SAM(problem.net.parameters(), torch.optim.SGD, lr=0.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
    is_finite = abs(value) < torch.inf
    assert scaled(problem, optimizer, scaler, spoil) == is_finite


def test_a_scaled_step_waits_once_per_pass():
    problem = Problem()
    optimizer = SAM(problem.net.parameters(), torch.optim.SGD, lr=0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    with Recording() as recorded:
        scaled(problem, optimizer, scaler)
    assert recorded.n_read == 2


@NEEDS_GPU
def test_float16_on_a_gpu():
    net = fit(make_net(mixed_precision="fp16", max_epochs=3))
    assert np.isfinite(net.history[:, "train_loss"]).all()
    assert net.optimizer_.scaler is not None
