"""SAM as the optimizer of skorch nets: promise 4, and common uses."""

import itertools
import pickle

import numpy as np
import pytest
import torch
from braindecode import EEGRegressor
from sklearn.model_selection import GroupKFold, cross_validate
from skorch.callbacks import GradientNormClipping, LRScheduler

from braindecode_sam import SAM, SCORING, SAMCallback
from braindecode_sam.optim import AESAM, FriendlySAM
from tests.optim.helpers import BASES, assert_same, small_net

MODELS = ["EEGNeX", "EEGNet", "ShallowFBCSPNet", "Deep4Net"]
MODELS += ["FastEEGNeX", "FastEEGNet"]
# Every model and every base optimizer.
PAIRS = list(zip(MODELS, itertools.cycle(BASES), strict=False))

RNG = np.random.default_rng(0)
X = RNG.normal(size=(20, 4, 450)).astype(np.float32)
Y = RNG.normal(size=20).astype(np.float32)
SUBJECTS = np.repeat(np.arange(5), 4)


def make_net(module="EEGNeX", optimizer=SAM, **options):
    defaults = {"lr": 1e-3, "max_epochs": 2, "batch_size": 6, "verbose": 0}
    defaults |= {"train_split": None, "module__drop_prob": 0.5}
    return EEGRegressor(module, optimizer=optimizer, **(defaults | options))


def trained(net):
    """Fit from one seed. Return the state of the module, and a random number."""
    torch.manual_seed(7)
    net.fit(X, Y)
    random = torch.rand(1, device=next(net.module_.parameters()).device)
    return {**net.module_.state_dict(), "random": random}


def alone_and_with_sam(module, base_name, rho, **options):
    """Train with a base optimizer alone, and with SAM around it."""
    base, base_options = BASES[base_name]
    options |= {f"optimizer__{name}": value for name, value in base_options.items()}
    plain = trained(make_net(module, base, **options))
    options |= {"optimizer__base_optimizer": base, "optimizer__rho": rho}
    return plain, trained(make_net(module, **options))


@pytest.mark.parametrize(("module", "base_name"), PAIRS)
def test_4_rho_0_and_the_base_alone_are_bit_identical(module, base_name):
    plain, sam = alone_and_with_sam(module, base_name, rho=0.0)
    assert_same(plain, sam)
    assert any("num_batches_tracked" in name for name in plain)


@pytest.mark.parametrize(("module", "base_name"), PAIRS)
def test_4_at_lr_0_sam_moves_nothing_but_what_one_pass_moves(module, base_name):
    """With fixed weights, both use the same models, so all buffers must agree."""
    options = {"lr": 0.0, "optimizer__weight_decay": 0.0}
    assert_same(*alone_and_with_sam(module, base_name, rho=0.5, **options))


def test_4_both_passes_draw_the_same_masks():
    """With a rho too small to change float32 weights, both passes are the same."""
    net = make_net(optimizer__rho=1e-30, max_epochs=1)
    net.fit(X, Y)
    assert net.optimizer_.last_loss == net.optimizer_.last_perturbed_loss


@pytest.mark.parametrize("cls", [SAM, AESAM])
def test_cross_validate_with_options_and_callbacks(cls):
    one_cycle = torch.optim.lr_scheduler.OneCycleLR
    callbacks = [
        ("sam", SAMCallback(schedule="linear", start_epoch=1, perturb="norm")),
        ("clip", GradientNormClipping(1.0)),
        ("lr", LRScheduler(one_cycle, max_lr=0.01, total_steps=9, step_every="batch")),
    ]
    net = make_net("FastEEGNet", cls, max_epochs=3, callbacks=callbacks)
    results = cross_validate(
        net, X, Y, groups=SUBJECTS, cv=GroupKFold(2), scoring=SCORING,
        return_estimator=True, error_score="raise",
    )  # fmt: skip
    for name in ("neg_nrmse", "neg_nrmse_range", "r2", "pearsonr"):
        assert np.isfinite(results[f"test_{name}"]).all()
    for fitted in results["estimator"]:
        assert type(fitted.optimizer_) is cls
        assert fitted.history[:, "rho"] == pytest.approx([0.0, 0.05, 0.0])
        copied = pickle.loads(pickle.dumps(fitted))
        np.testing.assert_array_equal(copied.predict(X), fitted.predict(X))


def test_sam_learns():
    y = X[:, 0, :].std(axis=1) * 50
    net = make_net("FastEEGNet", max_epochs=12, module__drop_prob=0.0, lr=1e-2)
    net.fit(X, y - y.mean())
    losses = net.history[:, "train_loss"]
    assert losses[-1] < losses[0] / 2


def test_options_reach_optimizer_and_base():
    net = make_net(
        "FastEEGNet", max_epochs=1,
        optimizer__base_optimizer__betas=(0.5, 0.6),
        optimizer__weight_decay=0.3,
        optimizer__param_groups=[("final_layer*", {"rho": 0.0, "lr": 0.1})],
    )  # fmt: skip
    net.fit(X, Y)
    last, rest = net.optimizer_.param_groups
    assert (last["rho"], last["lr"], last["betas"]) == (0.0, 0.1, (0.5, 0.6))
    assert (rest["rho"], rest["lr"], rest["weight_decay"]) == (0.05, 1e-3, 0.3)
    net.set_params(optimizer__rho=0.2, lr=0.5)
    assert [g["rho"] for g in net.optimizer_.param_groups] == [0.2, 0.2]


@pytest.mark.parametrize("failing_pass", [1, 2])
@pytest.mark.parametrize("cls", [SAM, FriendlySAM])
def test_ctrl_c_leaves_the_weights_of_before_the_step(cls, failing_pass, monkeypatch):
    """skorch catches it, and the fit counts as a success."""
    net = make_net("FastEEGNet", cls, max_epochs=1, optimizer__rho=5.0)
    net.fit(X, Y)

    def state():
        weights = {n: p.detach().clone() for n, p in net.module_.named_parameters()}
        return weights, repr(net.optimizer_.state_dict())

    before, passes = state(), itertools.count(1)

    def interrupt(net, **kwargs):
        if next(passes) == failing_pass:
            raise KeyboardInterrupt

    monkeypatch.setattr(net, "on_grad_computed", interrupt)
    net.partial_fit(X, Y[:, None])
    assert_same(before[0], state()[0])
    assert before[1] == state()[1]
    monkeypatch.undo()
    net.partial_fit(X, Y[:, None])
    assert np.isfinite(net.predict(X)).all()


def compiled_as_a_copy(module):
    return torch.compile(module, backend="eager", fullgraph=True)


def compiled_in_place(module):
    module.compile(backend="eager")
    return module


@pytest.mark.filterwarnings("ignore:Using `torch.compile:UserWarning")
@pytest.mark.parametrize("compile_", [compiled_as_a_copy, compiled_in_place])
def test_compiled_modules_train_like_others(compile_):
    torch.compiler.reset()
    plain, other = small_net(dropout=0), small_net(dropout=0)
    x, y = torch.randn(16, 5), torch.randn(16, 1)

    def train(module):
        optimizer = SAM(module.parameters(), torch.optim.SGD, lr=0.01, rho=0.1)

        def closure():
            optimizer.zero_grad()
            loss = torch.nn.functional.mse_loss(module(x), y)
            loss.backward()
            return loss

        for _ in range(3):
            optimizer.step(closure)

    compiled = compile_(other)
    with torch.no_grad():
        compiled(x)  # dynamo counts a batch while it traces
    other.load_state_dict(plain.state_dict())
    train(plain)
    train(compiled)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value)
