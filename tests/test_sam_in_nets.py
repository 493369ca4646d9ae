"""SAM as the optimizer of skorch nets: promise 4, and common uses."""

import copy
import itertools
import pickle

import numpy as np
import pytest
import torch
from braindecode import EEGClassifier, EEGRegressor
from braindecode.augmentation import AugmentedDataLoader, GaussianNoise
from braindecode.models import EEGNeX
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_validate
from skorch.callbacks import EarlyStopping, GradientNormClipping, LRScheduler
from skorch.helper import predefined_split

from braindecode_sam import SAM, SCORING, SAMCallback, TimeShift, resolve_device
from braindecode_sam.optim import AESAM, LookSAM, MomentumSAM
from tests.optim.helpers import BASES, FAMILY, assert_same

MODELS = ["EEGNeX", "EEGNet", "ShallowFBCSPNet", "Deep4Net"]
MODELS += ["FastEEGNeX", "FastEEGNet"]


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(20, 4, 500)).astype(np.float32)
    return X, rng.normal(size=20).astype(np.float32), np.repeat(np.arange(5), 4)


def make_net(module="EEGNeX", optimizer=SAM, **options):
    defaults = {"lr": 1e-3, "max_epochs": 2, "batch_size": 6, "verbose": 0}
    defaults |= {"train_split": None, "module__drop_prob": 0.5}
    return EEGRegressor(module, optimizer=optimizer, **(defaults | options))


def fit(net, data):
    """Fit from one seed. Return the states of the module and the generator."""
    torch.manual_seed(7)
    net.fit(*data[:2])
    return net.module_.state_dict(), torch.get_rng_state()


def base_options(name, prefix):
    base, options = BASES[name]
    return base, {f"{prefix}{key}": value for key, value in options.items()}


# 4. Statistics and random numbers of one plain pass


@pytest.mark.parametrize("module", MODELS)
@pytest.mark.parametrize("base_name", BASES)
def test_4_rho_0_and_the_base_alone_are_bit_identical(module, base_name, data):
    base, options = base_options(base_name, "optimizer__")
    plain = fit(make_net(module, base, **options), data)
    options |= {"optimizer__base_optimizer": base, "optimizer__rho": 0.0}
    sam = fit(make_net(module, **options), data)
    assert_same(plain[0], sam[0])
    assert torch.equal(plain[1], sam[1])
    assert any("num_batches_tracked" in name for name in plain[0])


@pytest.mark.parametrize("module", MODELS)
@pytest.mark.parametrize("base_name", BASES)
def test_4_at_lr_0_sam_moves_nothing_but_what_one_pass_moves(module, base_name, data):
    """With fixed weights, both use the same models, so all buffers must agree."""
    base, options = base_options(base_name, "optimizer__")
    options |= {"lr": 0.0, "optimizer__weight_decay": 0.0}
    plain = fit(make_net(module, base, **options), data)
    options |= {"optimizer__base_optimizer": base, "optimizer__rho": 0.5}
    sam = fit(make_net(module, **options), data)
    assert_same(plain[0], sam[0])
    assert torch.equal(plain[1], sam[1])


@pytest.mark.parametrize("cls", FAMILY)
def test_4_the_family_at_rho_0_is_the_base_alone(cls, data):
    plain = fit(make_net("FastEEGNet", torch.optim.AdamW), data)
    sam = fit(make_net("FastEEGNet", cls, optimizer__rho=0.0), data)
    assert_same(plain[0], sam[0])
    assert torch.equal(plain[1], sam[1])


def test_4_both_passes_draw_the_same_masks(data):
    """With a rho too small to change float32 weights, both passes are the same."""
    net = make_net(optimizer__rho=1e-30, max_epochs=1)
    net.fit(*data[:2])
    assert net.optimizer_.last_loss == net.optimizer_.last_perturbed_loss


# Common uses


@pytest.mark.slow
def test_cross_validate_as_in_the_readme(data):
    X, y, subjects = data
    net = EEGRegressor(
        EEGNeX,
        optimizer=SAM,
        optimizer__rho=0.05,
        lr=1e-3,
        max_epochs=1,
        batch_size=8,
        iterator_train=AugmentedDataLoader,
        iterator_train__transforms=[
            TimeShift(0.5, max_shift=0.1),
            GaussianNoise(0.5, std=0.01),
        ],
        device=resolve_device("cpu"),
        verbose=0,
    )
    cv = GroupKFold(5)
    scores = cross_validate(
        net, X, y, groups=subjects, cv=cv, scoring=SCORING, n_jobs=2
    )
    for name in ("neg_nrmse", "neg_nrmse_range", "r2", "pearsonr"):
        assert np.isfinite(scores[f"test_{name}"]).all()


@pytest.mark.parametrize("cls", FAMILY)
def test_the_family_in_cross_validate_with_its_options(cls, data):
    X, y, subjects = data
    one_cycle = torch.optim.lr_scheduler.OneCycleLR
    callbacks = [
        ("sam", SAMCallback(schedule="linear", start_epoch=1, perturb="norm")),
        ("clip", GradientNormClipping(1.0)),
        ("lr", LRScheduler(one_cycle, max_lr=0.01, total_steps=9, step_every="batch")),
    ]
    net = make_net("FastEEGNeX", cls, max_epochs=3, callbacks=callbacks)
    results = cross_validate(
        net, X, y, groups=subjects, cv=GroupKFold(2), scoring=SCORING,
        return_estimator=True, error_score="raise",
    )  # fmt: skip
    for fitted in results["estimator"]:
        assert type(fitted.optimizer_) is cls
        assert fitted.history[:, "rho"] == pytest.approx([0.0, 0.05, 0.0])
        copied = pickle.loads(pickle.dumps(fitted))
        np.testing.assert_array_equal(copied.predict(X), fitted.predict(X))


def test_sam_learns(data):
    X, _, _ = data
    y = X[:, 0, :].std(axis=1) * 50
    net = make_net(max_epochs=12, module__drop_prob=0.0, lr=1e-2)
    losses = net.fit(X, y - y.mean()) or net.history[:, "train_loss"]
    assert losses[-1] < losses[0] / 2


def test_grid_search_over_rho_and_base(data):
    X, y, subjects = data
    grid = {
        "optimizer__rho": [0.0, 0.1],
        "optimizer__base_optimizer": [torch.optim.SGD, torch.optim.Adamax],
    }
    search = GridSearchCV(make_net(max_epochs=1), grid, cv=GroupKFold(2))
    search.fit(X, y, groups=subjects)
    assert len(search.cv_results_["params"]) == 4
    chosen = search.best_estimator_.optimizer_
    assert chosen.param_groups[0]["rho"] == search.best_params_["optimizer__rho"]


def test_options_reach_optimizer_and_base(data):
    net = make_net(
        optimizer__base_optimizer__betas=(0.5, 0.6),
        optimizer__weight_decay=0.3,
        optimizer__param_groups=[("final_layer*", {"rho": 0.0, "lr": 0.1})],
    )
    net.fit(*data[:2])
    last, rest = net.optimizer_.param_groups
    assert (last["rho"], last["lr"], last["betas"]) == (0.0, 0.1, (0.5, 0.6))
    assert (rest["rho"], rest["lr"], rest["weight_decay"]) == (0.05, 1e-3, 0.3)
    net.set_params(optimizer__rho=0.2, lr=0.5)
    assert [g["rho"] for g in net.optimizer_.param_groups] == [0.2, 0.2]


def test_clone_and_pickle_train_the_same(data):
    net = make_net()
    fit(net, data)
    resumed = pickle.loads(pickle.dumps(clone(net)))
    assert_same(fit(net, data)[0], fit(resumed, data)[0])


# Max-norm parametrizations cannot be pickled, so a *fitted* EEGNet or EEGNeX cannot be
# pickled either. ShallowFBCSPNet has none.
@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda n: pickle.loads(pickle.dumps(n))]
)
def test_a_copy_of_a_fitted_net_trains_the_same(data, copied):
    net = make_net("ShallowFBCSPNet")
    net.fit(*data[:2])
    other = copied(net)
    for one in (net, other):
        torch.manual_seed(3)
        one.partial_fit(data[0], data[1][:, None])
    assert_same(net.module_.state_dict(), other.module_.state_dict())


def test_save_and_load_params_resume(data, tmp_path):
    files = {
        "f_params": tmp_path / "params.pt",
        "f_optimizer": tmp_path / "optimizer.pt",
        "f_history": tmp_path / "history.json",
    }
    X, y = data[0], data[1][:, None]
    net = make_net(optimizer__interval=2)
    net.fit(X, y)
    net.save_params(**files)
    other = make_net(optimizer__interval=2)
    other.set_params(module__n_chans=4, module__n_times=500, module__n_outputs=1)
    other.signal_args_set_ = True  # otherwise partial_fit would build a new module
    other.initialize().load_params(**files)
    for one in (net, other):
        torch.manual_seed(3)
        one.partial_fit(X, y)
    assert_same(net.module_.state_dict(), other.module_.state_dict())
    assert len(other.history) == 4


def test_an_interrupted_fit_leaves_clean_weights(data):
    """skorch catches KeyboardInterrupt, and the fit counts as a success."""
    net = make_net(optimizer__rho=50.0, max_epochs=3, lr=0.0)
    net.set_params(optimizer__weight_decay=0.0)
    calls = []

    def interrupt(net, **kwargs):
        calls.append(None)
        if len(calls) == 4:  # the second pass of the second step
            raise KeyboardInterrupt

    net.on_grad_computed = interrupt
    torch.manual_seed(7)
    net.fit(*data[:2])
    assert len(calls) == 4
    fresh = make_net(max_epochs=0)
    torch.manual_seed(7)
    fresh.fit(*data[:2])
    weights = dict(fresh.module_.named_parameters())
    assert_same(weights, dict(net.module_.named_parameters()))


@pytest.mark.parametrize("cls", FAMILY)
@pytest.mark.parametrize("where", ["first pass", "second pass"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_partial_fit_continues_after_a_fault(
    cls, where, error, data, tried, monkeypatch
):
    X, y = data[0], data[1][:, None]
    net = make_net("FastEEGNet", cls, max_epochs=1)
    net.fit(X, y)
    before = copy.deepcopy((net.module_.state_dict(), net.optimizer_.state_dict()))
    passes = itertools.count(1)

    def fail(net, **kwargs):
        if next(passes) == 1 + (where == "second pass"):
            raise error(where)

    monkeypatch.setattr(net, "on_grad_computed", fail)
    makes_one_pass = cls in (MomentumSAM, LookSAM, AESAM)
    if where == "second pass" and makes_one_pass:
        pytest.skip("it need not make a second pass here")
    if error is KeyboardInterrupt:
        net.partial_fit(X, y)  # skorch catches it
    else:
        with pytest.raises(error, match=where):
            net.partial_fit(X, y)
    assert_same(before[0], net.module_.state_dict())
    assert repr(before[1]) == repr(net.optimizer_.state_dict())
    monkeypatch.undo()
    net.partial_fit(X, y)
    assert np.isfinite(net.predict(X)).all()
    tried["faults in a net"] += 1


def test_callbacks_of_skorch(data):
    X, y, _ = data
    valid = torch.utils.data.TensorDataset(
        torch.tensor(X[:6]), torch.tensor(y[:6, None])
    )
    net = make_net(
        max_epochs=6,
        train_split=predefined_split(valid),
        callbacks=[
            GradientNormClipping(0.1),
            EarlyStopping(patience=2, load_best=True, sink=lambda message: None),
            LRScheduler(
                torch.optim.lr_scheduler.OneCycleLR,
                max_lr=0.01,
                total_steps=18,
                step_every="batch",
            ),
        ],
    )
    net.fit(X, y)
    assert net.optimizer_.param_groups[0]["lr"] != 1e-3


def test_classifier(data):
    net = EEGClassifier(
        "EEGNet", optimizer=SAM, max_epochs=1, batch_size=6, train_split=None, verbose=0
    )
    net.fit(data[0], (data[1] > 0).astype(int))
    assert net.predict(data[0]).shape == (20,)


def compiled_as_a_copy(module):
    return torch.compile(module, backend="eager")


def compiled_in_place(module):
    module.compile(backend="eager")
    return module


@pytest.mark.filterwarnings("ignore:Using `torch.compile:UserWarning")
@pytest.mark.parametrize("compile_", [compiled_as_a_copy, compiled_in_place])
def test_compiled_module(data, compile_):
    torch.compiler.reset()
    plain = EEGNeX(n_chans=4, n_times=500, n_outputs=1, drop_prob=0.0)
    other = EEGNeX(n_chans=4, n_times=500, n_outputs=1, drop_prob=0.0)
    other.load_state_dict(plain.state_dict())
    x, y = torch.tensor(data[0][:6]), torch.tensor(data[1][:6, None])

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
