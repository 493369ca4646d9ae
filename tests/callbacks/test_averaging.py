"""WeightAveraging: the average, its uses, and what it must leave unchanged."""

import contextlib
import copy
import io
import itertools
import json
import pickle
import random
import signal

import numpy as np
import pytest
import torch
from braindecode import EEGRegressor
from braindecode.augmentation import AugmentedDataLoader, GaussianNoise
from sklearn.base import clone
from sklearn.model_selection import KFold, cross_validate
from skorch.callbacks import (
    Callback,
    Checkpoint,
    EarlyStopping,
    EpochScoring,
    Freezer,
    LRScheduler,
    Unfreezer,
)
from skorch.dataset import ValidSplit
from skorch.helper import predefined_split
from torch.nn.utils import parametrizations, parametrize
from torch.optim.swa_utils import (
    AveragedModel,
    get_ema_multi_avg_fn,
    get_swa_multi_avg_fn,
    update_bn,
)

from braindecode_sam import SAM, TimeShift
from braindecode_sam.callbacks import (
    ResumableCheckpoint,
    SeedCallback,
    WeightAveraging,
    averaging,
)
from braindecode_sam.estimators import Regressor
from tests.optim.helpers import assert_same

RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 4, 128)).astype(np.float32)
Y = RNG.normal(size=(24, 1)).astype(np.float32)
SHAPE = {"module__n_chans": 4, "module__n_times": 128, "module__n_outputs": 1}
KINDS = ["ema", "swa"]


class MaxNorm(torch.nn.Module):
    def forward(self, weight):
        return torch.renorm(weight, 2, 0, 0.5)


class Small(torch.nn.Module):
    """Has BatchNorm, dropout, and constrained, shared and frozen weights."""

    def __init__(self, n_chans, n_times, n_outputs):
        super().__init__()
        self.first = torch.nn.Linear(n_chans, 6)
        self.norm = torch.nn.BatchNorm1d(6)
        self.again = torch.nn.Linear(6, 6, bias=False)
        self.third = torch.nn.Linear(6, 6, bias=False)
        self.third.weight = self.again.weight
        self.drop = torch.nn.Dropout(0.3)
        self.last = torch.nn.Linear(6, n_outputs)
        self.mask = torch.nn.Parameter(torch.tensor([0.0, -torch.inf]), False)
        parametrize.register_parametrization(self.first, "weight", MaxNorm())

    def forward(self, x):
        x = self.drop(self.norm(self.first(x.square().mean(-1))).relu())
        return self.last(self.third(self.again(x).relu()) + self.mask[0])


OPTIMIZERS = {
    "AdamW": {"optimizer": torch.optim.AdamW},
    "SAM": {"optimizer": SAM, "optimizer__rho": 0.1, "optimizer__interval": 2},
}


def make_net(*callbacks, module=Small, cls=EEGRegressor, **options):
    defaults = {
        **OPTIMIZERS["AdamW"], "lr": 0.05, "max_epochs": 4, "batch_size": 6,
        "train_split": ValidSplit(4), "verbose": 0,
    }  # fmt: skip
    seeded = [("seed", SeedCallback(0, n_threads=1)), *callbacks]
    return cls(module, callbacks=seeded, **(defaults | options))


def averaged_net(*args, callbacks=(), **options):
    average = ("averaging", WeightAveraging(*args))
    return make_net(*callbacks, average, **options)


def fitted(net, X=X, y=Y):
    net.fit(X, y)
    return net


def callback_of(net):
    return dict(net.callbacks_)["averaging"]


def params_of(net, trainable=True):
    named = net.module_.named_parameters()
    return {n: p.detach().clone() for n, p in named if p.requires_grad or not trainable}


def state_of(net):
    return {name: value.clone() for name, value in net.module_.state_dict().items()}


def training_state(net):
    """Return the module's training state while the net holds the average."""
    training = callback_of(net).training_
    kept = {name.removeprefix("module."): value for name, value in training.items()}
    if "again.weight" in kept:
        kept["third.weight"] = kept[
            "again.weight"
        ]  # the shared weight, by its other name
    return state_of(net) | kept


class Record(Callback):
    """Record the module's state at each hook."""

    def __init__(self, of=params_of):
        self.of = of

    def initialize(self):
        self.seen_ = {"step": [], "epoch": [], "validation": [], "begin": []}
        return self

    def on_epoch_begin(self, net, **kwargs):
        self.seen_["begin"].append(self.of(net))

    def on_batch_end(self, net, training=False, **kwargs):
        self.seen_["step" if training else "validation"].append(self.of(net))

    def on_epoch_end(self, net, **kwargs):
        self.seen_["epoch"].append(self.of(net))


def recorded(net, of=params_of):
    net.callbacks.append(("record", Record(of)))
    net.fit(X, Y)
    return dict(net.callbacks_)["record"].seen_


def is_same(first, second):
    return all(torch.equal(value, second[name]) for name, value in first.items())


def assert_close(found, expected):
    """Compare tensors with an average in float64, by name."""
    for name, value in expected.items():
        np.testing.assert_allclose(found[name].detach(), value, rtol=1e-5, atol=1e-6)


# The average


def numpy_average(kind, history, decay):
    """Compute the average in float64."""
    history = [{n: w.numpy().astype(np.float64) for n, w in h.items()} for h in history]
    if kind == "swa":
        return {n: np.mean([h[n] for h in history], axis=0) for n in history[0]}
    average = history[0]
    for weights in history[1:]:
        average = {n: decay * average[n] + (1 - decay) * weights[n] for n in weights}
    return average


@pytest.mark.parametrize("module", [Small, "FastEEGNeX"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_average_is_that_of_numpy(kind, optimizer, module):
    options = OPTIMIZERS[optimizer] | {"module": module, "lr": 0.01}
    steps = recorded(make_net(**options))["step"]
    assert len(steps) == 12
    history = steps[3:] if kind == "ema" else steps[5::3]
    net = fitted(averaged_net(kind, 0.7, 1, **options))
    assert callback_of(net).n_averaged_ == len(history)
    expected = numpy_average(kind, history, 0.7)
    assert params_of(net).keys() == expected.keys()
    assert_close(params_of(net), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_the_average_is_that_of_torch_bit_for_bit(kind):
    steps = recorded(make_net())["step"]
    net = fitted(averaged_net(kind, 0.8, 0))
    model = copy.deepcopy(net.module_)
    # Not torch's default on a CPU, which rounds differently.
    is_ema = kind == "ema"
    function = get_ema_multi_avg_fn(0.8) if is_ema else get_swa_multi_avg_fn()
    reference = AveragedModel(model, multi_avg_fn=function)
    for weights in steps if kind == "ema" else steps[2::3]:
        model.load_state_dict(weights, strict=False)
        reference.update_parameters(model)
    found = {n: p for n, p in reference.module.named_parameters() if p.requires_grad}
    assert_same(found, params_of(net))


@pytest.mark.parametrize(
    ("start", "kind", "first"),
    [
        (0, "swa", 0), (3, "swa", 3), (0.5, "ema", 2), (0.7, "ema", 3), (0.0, "swa", 0),
        (0.99, "swa", 3), (None, "ema", 0), (None, "swa", 3), (np.int64(2), "ema", 2),
    ],
)  # fmt: skip
def test_averaging_begins_at_start(start, kind, first):
    net = fitted(averaged_net(kind, 0.5, start))
    per_epoch = {"ema": 3, "swa": 1}[kind]
    assert callback_of(net).n_averaged_ == per_epoch * (4 - first)
    losses = [fitted(make_net()).history[:, "valid_loss"], net.history[:, "valid_loss"]]
    same = [first == second for first, second in zip(*losses, strict=True)]
    # The average of one weight is that weight, except for BatchNorm's statistics.
    assert same == [True] * first + [False] * (4 - first)


# BatchNorm's statistics


def batches_in_fixed_order(windows, size):
    order = np.random.default_rng(0).permutation(len(windows))
    windows = torch.tensor(windows)[order]
    return [windows[i : i + size] for i in range(0, len(order) // size * size, size)]


def statistics_of(module):
    return {
        name: value
        for name, value in module.state_dict().items()
        if name.endswith(("running_mean", "running_var", "num_batches_tracked"))
    }


@pytest.mark.parametrize(
    ("module", "size"), [("FastEEGNeX", 6), ("FastEEGNeX", 7), ("EEGNeX", -1)]
)
def test_statistics_are_those_of_update_bn_on_a_copy(module, size):
    net = averaged_net(
        "ema", 0.7, module=module, train_split=None, iterator_valid__batch_size=size,
        module__drop_prob=0.0,
    )  # fmt: skip
    net.fit(X, Y)
    fresh = clone(net).initialize().module_
    fresh.load_state_dict(state_of(net))
    batches = batches_in_fixed_order(X, 24 if size == -1 else size)
    update_bn(batches, fresh)
    expected, found = statistics_of(fresh), statistics_of(net.module_)
    assert_close(found, expected)
    counts = [int(value) for n, value in found.items() if n.endswith("tracked")]
    assert set(counts) == {len(batches)}


def test_statistics_are_of_windows_without_augmentation():
    options = {"train_split": None, "lr": 0.0, "iterator_valid__batch_size": -1}
    augmented = averaged_net(
        iterator_train=AugmentedDataLoader,
        iterator_train__transforms=[GaussianNoise(1.0, std=5.0)],
        **options,
    )
    plain = averaged_net(**options)
    found = [statistics_of(fitted(net).module_) for net in (augmented, plain)]
    assert_same(*found)


def test_statistics_are_those_of_mixed_windows():
    """The windows are sorted by subject, and subjects have different scales."""
    windows = X * np.repeat([0.1, 1, 5], 8)[:, None, None].astype(np.float32)
    net = averaged_net(
        train_split=None, lr=0.0, iterator_valid__batch_size=8, max_epochs=1
    )
    net.fit(windows, Y)
    power = torch.tensor(windows).square().mean(-1)
    expected = net.module_.first(power).var(0)
    ratio = net.module_.norm.running_var / expected
    assert 0.7 < ratio.median() < 1.3  # 0.4 in the data's order


class Watched(Small):
    """Has a layer that stays in evaluation mode, and buffers that a forward changes."""

    def __init__(self, n_chans, n_times, n_outputs):
        super().__init__(n_chans, n_times, n_outputs)
        self.frozen = torch.nn.BatchNorm1d(4)
        self.unused = torch.nn.BatchNorm1d(6)
        self.instance = torch.nn.InstanceNorm1d(4, track_running_stats=True)
        self.last = parametrizations.spectral_norm(self.last)
        self.register_buffer("calls", torch.tensor(0))
        self.frozen.running_mean.fill_(0.5)
        self.unused.running_mean.fill_(0.5)

    def train(self, mode=True):
        super().train(mode)
        self.frozen.eval()
        return self

    def forward(self, x):
        self.calls = self.calls + 1  # replaced
        return super().forward(self.frozen(self.instance(x)))


def test_the_pass_leaves_modes_momenta_and_other_buffers_unchanged():
    states = []
    for net in (make_net(module=Watched), averaged_net(module=Watched)):
        net.set_params(train_split=None, lr=0.0)
        net.fit(X, Y)
        assert all(m.training for n, m in net.module_.named_modules() if n != "frozen")
        assert not net.module_.frozen.training
        assert {net.module_.norm.momentum, net.module_.unused.momentum} == {0.1}
        states.append(state_of(net))
    plain, averaged = states
    differ = {n for n, value in plain.items() if not torch.equal(value, averaged[n])}
    assert differ == {
        "norm.running_mean", "norm.running_var", "norm.num_batches_tracked"
    }  # fmt: skip
    means = []
    net.module_.norm.register_forward_pre_hook(
        lambda norm, args: means.append(args[0].detach().mean(0))
    )
    for batch in batches_in_fixed_order(X, 6):
        net.module_(batch)
    mean = torch.stack(means).mean(0)
    assert_close(averaged, {"norm.running_mean": mean})


def test_a_last_smaller_batch_is_left_out():
    """BatchNorm cannot be trained with one window."""
    net = averaged_net(train_split=None, batch_size=6, lr=0.0, max_epochs=1)
    net.fit(X[:19], Y[:19])
    assert int(net.module_.norm.num_batches_tracked) == 3
    net = averaged_net(train_split=None, max_epochs=1)
    net.fit(X[:7], Y[:7])
    assert int(net.module_.norm.num_batches_tracked) == 1


class NoNorm(torch.nn.Module):
    def __init__(self, n_chans, n_times, n_outputs):
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(n_chans, track_running_stats=False)
        self.last = torch.nn.Linear(n_chans, n_outputs)

    def forward(self, x):
        return self.last(self.norm(x.square().mean(-1)))


@pytest.mark.parametrize("module", [NoNorm, Small])
def test_modules_without_statistics_need_no_pass(module, monkeypatch):
    passes = []
    monkeypatch.setattr(averaging, "update_bn", lambda *args: passes.append(args))
    fitted(averaged_net("swa", 0.9, 1, module=module))
    assert len(passes) == (0 if module is NoNorm else 3)


class Indexed(torch.utils.data.Dataset):
    """Has an index for each window, as braindecode's windows datasets."""

    def __init__(self, windows, y):
        self.windows, self.y = windows, y

    def __len__(self):
        return len(self.windows)

    def __getitem__(self, i):
        return self.windows[i], self.y[i], [0, 128 * i, 128 * (i + 1)]


def test_scores_of_crops_find_the_indices_of_the_validation():
    class Indices(Callback):
        def on_batch_end(self, net, training=False, **kwargs):
            if not training:
                seen.append(net._last_window_inds_[1].tolist())

    seen = []
    train, valid = Indexed(X[:18], Y[:18]), Indexed(X[18:], Y[18:])
    split = predefined_split(valid)
    net = averaged_net(callbacks=[Indices()], train_split=split, max_epochs=2, **SHAPE)
    net.fit(train, None)
    assert seen == [[128 * i for i in range(6)]] * 2


def test_datasets_that_are_iterated_over():
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(zip(X, Y, strict=True))

        def __len__(self):
            return len(X)

    options = {"iterator_train__shuffle": False, "train_split": None, "max_epochs": 2}
    net = averaged_net(**options, **SHAPE)
    net.signal_args_set_ = True
    net.fit(Stream(), None)
    assert int(net.module_.norm.num_batches_tracked) == 4


# The training


def generators():
    return [
        torch.get_rng_state().tolist(),
        np.random.get_state()[1].tolist(),
        random.getstate(),
    ]


@pytest.mark.parametrize(
    ("kind", "optimizer", "module"),
    [
        *itertools.product(KINDS, OPTIMIZERS, [Small, "FastEEGNeX"]),
        ("ema", "SAM", "EEGNeX"),
        ("swa", "AdamW", "EEGNeX"),
    ],
)
def test_the_training_is_that_without_averaging(kind, optimizer, module):
    """The augmentation draws from all kinds of generators."""
    nets, records, states = [], [], []
    for make in (make_net, averaged_net):
        arguments = (kind, 0.7, 1) if make is averaged_net else ()
        net = make(
            *arguments,
            **OPTIMIZERS[optimizer],
            module=module,
            iterator_train=AugmentedDataLoader,
            iterator_train__transforms=[TimeShift(0.5), GaussianNoise(0.5, std=0.1)],
            iterator_valid__generator=torch.Generator().manual_seed(3),
        )
        net.callbacks.append(("generators", Record(lambda net: generators())))
        records.append(recorded(net, state_of))
        states.append(dict(net.callbacks_)["generators"].seen_["step"])
        nets.append(net)
    plain, averaged = nets
    for hook in ("begin", "step"):
        for first, second in zip(records[0][hook], records[1][hook], strict=True):
            assert_same(first, second)
    assert bool(states[0] == states[1])
    assert_same(state_of(plain), training_state(averaged))
    assert plain.history[:, "train_loss"] == averaged.history[:, "train_loss"]
    optimizers = [repr(net.optimizer_.state_dict()) for net in nets]
    assert bool(optimizers[0] == optimizers[1])
    own = [net.iterator_valid__generator.get_state() for net in nets]
    assert torch.equal(*own)
    assert not is_same(params_of(plain), params_of(averaged))


def test_optimizers_keep_their_tensors():
    def addresses(net):
        return [tensor.data_ptr() for tensor in net.module_.state_dict().values()]

    seen = recorded(averaged_net(), addresses)
    assert all(a == seen["begin"][0] for hook in seen.values() for a in hook)


def test_global_generators_are_unchanged_without_a_seed():
    states = []
    for net in (make_net(), averaged_net()):
        net.callbacks.pop(0)
        torch.manual_seed(1)
        np.random.seed(1)
        random.seed(1)
        net.fit(X, Y)
        states.append(generators())
    assert bool(states[0] == states[1])


def test_parameters_that_are_frozen_and_shared():
    net = fitted(averaged_net("swa", 0.9, 0))
    names = set(callback_of(net).averaged_)
    assert "module.mask" not in names
    assert "module.third.weight" not in names
    assert {"module.again.weight", "module.first.parametrizations.weight.original"} < (
        names
    )
    assert net.module_.third.weight is net.module_.again.weight
    assert net.module_.mask.tolist() == [0.0, -np.inf]
    assert torch.linalg.norm(net.module_.first.weight, dim=1).max() <= 0.5 + 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_that_are_frozen_at_first(kind):
    """The average includes the epochs in which they did not change."""
    thaw = [
        Freezer("again.weight"),
        Unfreezer("again.weight", at=3),
        ("record", Record(lambda net: params_of(net, trainable=False))),
    ]
    net = fitted(averaged_net(kind, 0.6, 0, callbacks=thaw))
    steps = dict(net.callbacks_)["record"].seen_["step"]
    weights = [{"again.weight": step["again.weight"]} for step in steps]
    assert torch.equal(weights[0]["again.weight"], weights[5]["again.weight"])
    assert not torch.equal(weights[0]["again.weight"], weights[6]["again.weight"])
    expected = numpy_average(kind, weights if kind == "ema" else weights[2::3], 0.6)
    assert_close(params_of(net), expected)


class Scale(torch.nn.Module):
    """A criterion with a parameter."""

    def __init__(self):
        super().__init__()
        self.log_scale = torch.nn.Parameter(torch.zeros(1))

    def forward(self, y_pred, y):
        errors = (y_pred - y).square()
        return (errors * (-self.log_scale).exp() + self.log_scale).mean()


class TwoModules(EEGRegressor):
    def initialize_module(self):
        super().initialize_module()
        self.encoder_ = torch.nn.Sequential(torch.nn.Conv1d(4, 4, 3, padding=1))
        self.encoder_.append(torch.nn.BatchNorm1d(4))
        return self

    def infer(self, x, **fit_params):
        return super().infer(self.encoder_(x), **fit_params)


def test_several_modules_and_a_criterion_with_parameters():
    def params_of_all(net):
        return {
            f"{part}.{name}": p.detach().clone()
            for part in ("module", "encoder", "criterion")
            for name, p in getattr(net, part + "_").named_parameters()
            if p.requires_grad
        }

    options = {"cls": TwoModules, "criterion": Scale}
    steps = recorded(make_net(**options), params_of_all)["step"]
    net = fitted(averaged_net("ema", 0.7, **options))
    expected = numpy_average("ema", steps, 0.7)
    assert callback_of(net).averaged_.keys() == expected.keys()
    assert_close(params_of_all(net), expected)
    encoder = copy.deepcopy(net.encoder_)
    update_bn(batches_in_fixed_order(X[6:], 6), encoder)  # the rest is for validation
    assert_close(net.encoder_.state_dict(), statistics_of(encoder))


# Uses of the average


def mean_squared_error(net, windows, y):
    return float(np.square(net.predict(windows) - y).mean())


def test_the_average_is_what_is_validated_and_predicts():
    cached = ("cached", EpochScoring("neg_mean_squared_error", name="cached"))
    valid = torch.utils.data.TensorDataset(torch.tensor(X[18:]), torch.tensor(Y[18:]))
    net = averaged_net(
        "ema", 0.7, callbacks=[cached, "neg_mean_squared_error"],
        train_split=predefined_split(valid),
    )  # fmt: skip
    net.fit(X[:18], Y[:18])
    last = net.history[-1]
    expected = mean_squared_error(net, X[18:], Y[18:])
    np.testing.assert_allclose(last["valid_loss"], expected, rtol=1e-5)
    np.testing.assert_allclose(-last["cached"], expected, rtol=1e-5)
    expected = mean_squared_error(net, X[:18], Y[:18])
    found = -last["train_neg_mean_squared_error"]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(("train_split", "n"), [(None, 4), (ValidSplit(4), 3)])
@pytest.mark.parametrize("kind", KINDS)
def test_other_callbacks_find_the_average_at_the_end_of_an_epoch(kind, train_split, n):
    """This includes callbacks before it, and training without validation."""
    before = ("first", Record())
    net = averaged_net(kind, 0.7, 1, callbacks=[before], train_split=train_split)
    seen = recorded(net, state_of)
    first = dict(net.callbacks_)["first"].seen_
    steps = first["step"]  # n in each epoch
    assert_same(steps[n - 1], first["epoch"][0])
    for n_epochs in (2, 3, 4):
        done = steps[n : n * n_epochs] if kind == "ema" else steps[2 * n - 1 :: n]
        done = done if kind == "ema" else done[: n_epochs - 1]
        assert_close(first["epoch"][n_epochs - 1], numpy_average(kind, done, 0.7))
    assert_same(seen["epoch"][-1], state_of(net))
    assert len(seen["validation"]) == (4 if train_split else 0)
    order = [name for name, _ in net.callbacks_]
    assert order[0] == "averaging"
    assert order[-1] == "seed"
    assert len(order) == len({*order}) == 8


class BestIsThird(Callback):
    def on_epoch_end(self, net, **kwargs):
        net.history.record("score", abs(len(net.history) - 3))
        net.history.record("score_best", len(net.history) == 3)


def stopping_early():
    best = EarlyStopping("score", load_best=True, patience=9, sink=lambda text: None)
    return [("score", BestIsThird()), ("best", best)]


def test_early_stopping_and_checkpoints_keep_the_average(tmp_path):
    saved = Checkpoint(dirname=tmp_path, monitor="score_best")
    every = Checkpoint(dirname=tmp_path, monitor=None, fn_prefix="last_")
    callbacks = [*stopping_early(), ("saved", saved), ("every", every)]
    net = averaged_net("swa", 0.9, 1, callbacks=callbacks)
    seen = recorded(net, state_of)
    names = params_of(net)
    steps = [{name: s[name] for name in names} for s in seen["step"][5:9:3]]
    assert_close(params_of(net), numpy_average("swa", steps, 0.9))
    assert_same(seen["epoch"][2], state_of(net))
    assert_same(seen["epoch"][2], torch.load(tmp_path / "params.pt"))
    assert_same(seen["epoch"][3], torch.load(tmp_path / "last_params.pt"))


def test_saved_parameters_are_the_average():
    net = fitted(averaged_net(module="FastEEGNeX"))
    file = io.BytesIO()
    net.save_params(f_params=file)
    file.seek(0)
    other = make_net(module="FastEEGNeX", **SHAPE)
    other.initialize().load_params(f_params=file)
    np.testing.assert_array_equal(other.predict(X), net.predict(X))


# Interrupts and failures


class At(Callback):
    """Raise at a hook in an epoch, once."""

    def __init__(self, hook=None, epoch=3, error=KeyboardInterrupt):
        self.hook, self.epoch, self.error = hook, epoch, error

    def get_params(self, deep=True):
        return {}  # not part of the settings

    def reached(self, net, hook):
        if hook == self.hook and len(net.history) == self.epoch:
            self.hook = None
            raise self.error("power cut")

    def on_epoch_begin(self, net, **kwargs):
        self.reached(net, "epoch_begin")

    def on_batch_begin(self, net, training=False, **kwargs):
        if training and net.history[-1]["batches"][1:]:
            self.reached(net, "second_batch")
        elif not training:
            self.reached(net, "before_validation")

    def on_batch_end(self, net, training=False, **kwargs):
        if not training:
            self.reached(net, "validation")

    def on_epoch_end(self, net, **kwargs):
        self.reached(net, "epoch_end")


HOOKS = ["epoch_begin", "second_batch", "before_validation", "validation", "epoch_end"]


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupted_training_leaves_the_average(kind, hook):
    record = ("record", Record())
    net = fitted(averaged_net(kind, 0.7, 1, callbacks=[("at", At(hook)), record]))
    assert len(net.history) == 3
    steps = dict(net.callbacks_)["record"].seen_["step"]
    assert len(steps) == {"epoch_begin": 6, "second_batch": 7}.get(hook, 9)
    done = steps[3:] if kind == "ema" else steps[5::3]
    assert_close(params_of(net), numpy_average(kind, done, 0.7))
    assert int(net.module_.norm.num_batches_tracked) == 3
    assert net.module_.training == (hook in ("second_batch", "before_validation"))
    assert is_same(steps[-1], training_state(net))


def test_an_interrupt_before_the_start_leaves_the_weights():
    net = averaged_net("swa", 0.9, 3, callbacks=[("at", At("second_batch"))])
    with pytest.warns(
        UserWarning, match="ended after 3 epochs, before averaging began"
    ):
        fitted(net)
    assert callback_of(net).averaged_ is None
    assert int(net.module_.norm.num_batches_tracked) == 7


@pytest.mark.parametrize("hook", HOOKS)
def test_a_failed_training_leaves_no_mixture_and_continues(hook):
    record = ("record", Record(state_of))
    at = ("at", At(hook, error=RuntimeError))
    net = averaged_net("ema", 0.7, callbacks=[at, record])
    with pytest.raises(RuntimeError, match="power cut"):
        net.fit(X, Y)
    steps = dict(net.callbacks_)["record"].seen_["step"]
    now = state_of(net)
    if hook in ("epoch_begin", "second_batch"):
        assert_same(now, steps[-1])
    else:
        assert_same(params_of(net), averaged_params(net))
        assert_same(steps[-1], training_state(net))
    seen_before = len(steps)
    net.partial_fit(X, Y)
    assert len(steps) == seen_before + 12
    assert callback_of(net).n_averaged_ == len(steps)


def averaged_params(net):
    averaged = callback_of(net).averaged_
    return {name.removeprefix("module."): value for name, value in averaged.items()}


class Failing(Small):
    """Raise in the pass that computes the statistics, in its second batch."""

    n_failures = 0
    error = KeyboardInterrupt

    def forward(self, x):
        if self.training and not torch.is_grad_enabled():
            self.n_calls = getattr(self, "n_calls", 0) + 1
            if self.n_calls == 5 and Failing.n_failures:
                Failing.n_failures -= 1
                self.n_calls -= 1
                if Failing.error is KeyboardInterrupt:
                    signal.raise_signal(signal.SIGINT)
                raise Failing.error("power cut")
        return super().forward(x)


def test_a_pass_that_was_interrupted_is_repeated_at_the_end(monkeypatch):
    monkeypatch.setattr(Failing, "n_failures", 1)
    net = averaged_net("swa", 0.9, 0, module=Failing)
    net.callbacks.append(("states", Record(state_of)))
    steps = recorded(net)["step"]
    assert len(net.history) == 2
    assert "valid_loss" not in net.history[-1]
    assert callback_of(net).n_averaged_ == 2
    assert_close(averaged_params(net), numpy_average("swa", steps[2::3], 0.9))
    assert_same(params_of(net), averaged_params(net))
    assert int(net.module_.norm.num_batches_tracked) == 3
    assert_same(training_state(net), dict(net.callbacks_)["states"].seen_["step"][-1])


@pytest.mark.parametrize(
    ("error", "n_failures"), [(KeyboardInterrupt, 2), (RuntimeError, 1)]
)
def test_a_failed_pass_is_rolled_back(error, n_failures, monkeypatch):
    monkeypatch.setattr(Failing, "n_failures", n_failures)
    monkeypatch.setattr(Failing, "error", error)
    net = averaged_net("swa", 0.9, 0, module=Failing)
    net.callbacks.append(("record", Record(state_of)))
    torch.manual_seed(0)
    before = torch.get_rng_state()
    with pytest.raises(error):
        net.fit(X, Y)
    assert torch.equal(before, torch.get_rng_state())
    steps = dict(net.callbacks_)["record"].seen_["step"]
    assert_same(state_of(net), steps[-1])
    assert net.module_.norm.momentum == 0.1
    assert callback_of(net).training_ is None


@pytest.mark.parametrize(
    ("owner", "function", "numbers"),
    [
        (averaging, "_copies", range(1, 7)),
        (averaging, "_params", range(1, 16, 3)),
        (averaging, "_statistics", range(1, 7)),
        (torch.Tensor, "copy_", range(1, 36, 3)),
        (torch, "_foreach_lerp_", range(1, 4)),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_ctrl_c_in_the_callback_leaves_no_mixture(
    kind, owner, function, numbers, monkeypatch
):
    """Each case interrupts another call of the callback."""
    record = ("record", Record(state_of))
    plain = fitted(make_net(record, max_epochs=2))
    seen = dict(plain.callbacks_)["record"].seen_
    states = [seen["begin"][0], *seen["step"]]
    weights = [{name: s[name] for name in params_of(plain)} for s in seen["step"]]
    original = getattr(owner, function)
    for number in numbers:
        calls = itertools.count(1)

        def interrupted(*args, calls=calls, number=number):
            result = original(*args)
            if next(calls) == number:
                signal.raise_signal(signal.SIGINT)
            return result

        net = averaged_net(kind, 0.7, 0, max_epochs=2)
        monkeypatch.setattr(owner, function, interrupted)
        with contextlib.suppress(
            KeyboardInterrupt
        ):  # skorch does not catch one at the end
            net.fit(X, Y)
        monkeypatch.undo()
        callback, now = callback_of(net), state_of(net)
        is_in = callback.training_ is not None
        training = training_state(net) if is_in else now
        assert any(is_same(training, state) for state in states)
        if callback.n_averaged_:
            history = weights if kind == "ema" else weights[2::3]
            expected = numpy_average(kind, history[: callback.n_averaged_], 0.7)
            assert_close(averaged_params(net), expected)
            assert not is_in or is_same(averaged_params(net), now)


def test_ctrl_c_is_deferred_until_the_generators_are_restored(monkeypatch):
    def interrupted(states):
        signal.raise_signal(signal.SIGINT)
        put_back(states)
        done.append(states)

    put_back, done = averaging.set_generator_states, []
    monkeypatch.setattr(averaging, "set_generator_states", interrupted)
    net = fitted(averaged_net())
    assert len(done) == len(net.history) == 1
    assert_same(params_of(net), averaged_params(net))


# More training


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("is_warm_start", [False, True])
def test_more_training_continues_from_the_training_weights(kind, is_warm_start):
    def net(n_epochs):
        net = averaged_net(
            kind, 0.7, 1, cls=Regressor, max_epochs=n_epochs, train_split=None,
            warm_start=is_warm_start,
        )  # fmt: skip
        net.callbacks.pop(0)
        torch.manual_seed(0)
        return fitted(net)

    whole, parts = net(4), net(2)
    assert not is_same(state_of(whole), state_of(parts))
    (parts.fit if is_warm_start else parts.partial_fit)(X, Y)
    assert_same(state_of(whole), state_of(parts))
    assert_same(training_state(whole), training_state(parts))
    assert callback_of(whole).n_averaged_ == callback_of(parts).n_averaged_


def first_weights_of_more_training(net):
    net.callbacks_.append(("record", Record(state_of).initialize()))
    net.partial_fit(X, Y)
    return dict(net.callbacks_)["record"].seen_["begin"][0]


@pytest.mark.parametrize("has_failed", [False, True])
def test_more_training_continues_from_weights_that_were_loaded(has_failed):
    file = io.BytesIO()
    other = fitted(make_net(max_epochs=1))
    other.save_params(f_params=file)
    file.seek(0)
    at = At("validation" if has_failed else None, error=RuntimeError)
    net = averaged_net(callbacks=[("at", at)])
    with pytest.raises(RuntimeError) if has_failed else contextlib.nullcontext():
        net.fit(X, Y)
    net.load_params(f_params=file)
    assert_same(first_weights_of_more_training(net), state_of(other))
    assert callback_of(net).n_averaged_ == 12


def test_more_training_continues_from_the_best_weights():
    net = fitted(averaged_net("swa", 0.9, 1, callbacks=stopping_early()))
    held = state_of(net)
    assert not is_same(params_of(net), averaged_params(net))
    assert_same(first_weights_of_more_training(net), held)
    assert callback_of(net).n_averaged_ == 4


def test_another_module_and_set_params_start_again():
    net = fitted(averaged_net(module="FastEEGNeX"))
    held = state_of(net)
    net.set_params(callbacks__averaging__decay=0.5)
    assert callback_of(net).averaged_ is None
    assert_same(first_weights_of_more_training(net), held)
    net.set_params(module__filter_1=4)
    net.partial_fit(X, Y)
    assert callback_of(net).n_averaged_ == 12
    net.fit(X, Y)
    assert callback_of(net).n_averaged_ == 12


# Copies


def pickled(net):
    return (pickle.dumps(net), state_of(net)) if len(net.history) == 3 else None


class Pickling(Record):
    """Keep pickles of the net in its third epoch."""

    def __init__(self):
        super().__init__(pickled)

    def __getstate__(self):
        return {"of": self.of}  # without the earlier pickles


@pytest.mark.parametrize("kind", KINDS)
def test_nets_are_pickled_and_copied_at_any_time(kind):
    record = Pickling()
    net = averaged_net(
        kind, 0.7, 1, module="FastEEGNeX", callbacks=[("record", record)], max_epochs=3
    )
    pickle.loads(pickle.dumps(net))
    net.fit(X, Y)
    final = [pickle.loads(pickle.dumps(net)), copy.deepcopy(net)]
    numbers = {"ema": (6, 6), "swa": (1, 2)}[kind]
    for hook, n_averaged in zip(("step", "epoch"), numbers, strict=True):
        content, state = record.seen_[hook][-1]
        other = pickle.loads(content)
        assert_same(state, state_of(other))
        assert (callback_of(other).training_ is None) == (hook == "step")
        assert callback_of(other).n_averaged_ == n_averaged
        without_record(other)
        validate(other)  # validation outside a fit
        assert_same(state, state_of(other))
    for other in [*final, net]:
        np.testing.assert_array_equal(other.predict(X), net.predict(X))
        without_record(other)
        torch.manual_seed(0)
        np.random.seed(0)
        other.partial_fit(X, Y)
        assert_same(state_of(final[0]), state_of(other))


def without_record(net):
    net.callbacks_ = [named for named in net.callbacks_ if named[0] != "record"]


def validate(net):
    iterator = net.get_iterator(net.get_dataset(X, Y))
    net.run_single_epoch(iterator, False, "valid", net.validation_step)


def test_a_pickle_holds_no_data():
    """This holds during training too, as with Checkpoint(f_pickle=...)."""
    callback = WeightAveraging()
    callback.windows_.dataset = X
    assert len(pickle.dumps(callback)) < 1000
    assert pickle.loads(pickle.dumps(callback)).windows_.dataset is None
    net = fitted(averaged_net())
    assert callback_of(net).windows_.dataset is None


def test_clones_are_not_fitted():
    net = fitted(averaged_net("swa", 0.9, 1))
    other = clone(net)
    callback = dict(other.callbacks)["averaging"]
    assert callback is not callback_of(net)
    assert callback.get_params() == {"kind": "swa", "decay": 0.9, "start": 1}
    assert callback.averaged_ is None
    assert_same(state_of(fitted(other)), state_of(net))


@pytest.mark.slow
def test_cross_validation_in_workers(tried):
    results = {}
    for n_jobs in (1, 2):
        results[n_jobs] = cross_validate(
            averaged_net("ema", 0.7, module="FastEEGNeX", max_epochs=2, cls=Regressor),
            X, Y, cv=KFold(2), n_jobs=n_jobs, return_estimator=True,
            scoring="neg_mean_squared_error",
        )  # fmt: skip
    np.testing.assert_array_equal(*(r["test_score"] for r in results.values()))
    estimators = (r["estimator"] for r in results.values())
    for first, second in zip(*estimators, strict=True):
        assert_same(state_of(first), state_of(second))
        assert_same(params_of(second), averaged_params(second))
    tried["folds in loky workers"] += 2


# Resuming


def make_resumable(file, kind, is_before=True, at=None, module=Small, **options):
    checkpoint = ResumableCheckpoint(file)
    average = [("averaging", WeightAveraging(kind, 0.7, 1))]
    one_cycle = torch.optim.lr_scheduler.OneCycleLR
    schedule = LRScheduler(one_cycle, max_lr=0.05, total_steps=99, step_every="batch")
    early = EarlyStopping(patience=8, load_best=True, sink=lambda text: None)
    ours = [("checkpoint", checkpoint)]
    callbacks = [*ours, *average] if is_before else [*average, *ours]
    net = make_net(
        # A schedule after the checkpoint would overwrite what it restored.
        ("schedule", schedule), *callbacks, ("early", early), ("at", at or At()),
        module=module, **(OPTIMIZERS["SAM"] | {"max_epochs": 5} | options),
    )  # fmt: skip
    return net, checkpoint


def rows(net):
    return json.dumps([{k: v for k, v in r.items() if k != "dur"} for r in net.history])


def assert_same_training(first, second):
    assert bool(rows(first) == rows(second))
    assert_same(state_of(first), state_of(second))
    callbacks = callback_of(first), callback_of(second)
    assert_same(*(c.averaged_ for c in callbacks))
    assert_same(*(c.training_ for c in callbacks))
    assert callbacks[0].n_averaged_ == callbacks[1].n_averaged_
    states = [repr(net.optimizer_.state_dict()) for net in (first, second)]
    assert bool(states[0] == states[1])


@pytest.mark.parametrize(
    ("hook", "epoch"), [("second_batch", 2), ("validation", 4), ("epoch_end", 2)]
)
@pytest.mark.parametrize("is_before", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_failed_training_is_resumed_bit_for_bit(
    kind, is_before, hook, epoch, tmp_path, tried
):
    whole = fitted(make_resumable(tmp_path / "whole.pt", kind, is_before)[0])
    file, at = tmp_path / "failed.pt", At(hook, epoch, RuntimeError)
    net, _ = make_resumable(file, kind, is_before, at)
    with pytest.raises(RuntimeError, match="power cut"):
        net.fit(X, Y)
    net, checkpoint = make_resumable(file, kind, is_before)
    torch.manual_seed(99)
    assert_same_training(whole, checkpoint.resume(net, X, Y))
    tried["trainings killed and resumed"] += 1


@pytest.mark.parametrize(
    ("is_before", "train_split"), [(True, ValidSplit(4)), (False, None)]
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_finished_training_is_resumed_for_more_epochs(
    kind, is_before, train_split, tmp_path
):
    options = {"train_split": train_split, "callbacks__early": None}
    whole = fitted(make_resumable(tmp_path / "a.pt", kind, is_before, **options)[0])
    file = tmp_path / "short.pt"
    short, _ = make_resumable(file, kind, is_before, max_epochs=3, **options)
    short.fit(X, Y)
    net, checkpoint = make_resumable(file, kind, is_before, **options)
    assert_same_training(whole, checkpoint.resume(net, X, Y))
    net, checkpoint = make_resumable(tmp_path / "a.pt", kind, is_before, **options)
    assert_same_training(whole, checkpoint.resume(net, X, Y))  # no epochs are left


def test_a_training_that_stopped_early_stays_stopped(tmp_path):
    def net():
        checkpoint = ResumableCheckpoint(tmp_path / "a.pt")
        callbacks = [("checkpoint", checkpoint), *stopping_early()]
        net = averaged_net("swa", 0.9, 1, callbacks=callbacks, max_epochs=9)
        return net.set_params(callbacks__best__patience=2), checkpoint

    first, (second, checkpoint) = fitted(net()[0]), net()
    assert len(first.history) == 5
    checkpoint.resume(second, X, Y)
    assert bool(rows(first) == rows(second))
    assert_same(state_of(first), state_of(second))
    assert_same(training_state(first), training_state(second))


def test_a_changed_average_is_named_when_a_training_is_resumed(tmp_path):
    make_resumable(tmp_path / "a.pt", "ema", max_epochs=2)[0].fit(X, Y)
    net, checkpoint = make_resumable(tmp_path / "a.pt", "swa")
    with pytest.raises(ValueError, match="averaging__kind was 'ema', is 'swa'"):
        checkpoint.resume(net, X, Y)


# Bad input


BAD = {
    "kind": ({"kind": "mean"}, ValueError, "kind must be one of 'ema', 'swa', got 'me"),
    "decay 1": ({"decay": 1.0}, ValueError, r"decay must be a number .* 1, got 1\.0"),
    "decay -1": ({"decay": -0.1}, ValueError, r"decay must be .* < 1, got -0.1"),
    "decay nan": ({"decay": np.nan}, ValueError, r"decay must be .*, got nan"),
    "decay text": ({"decay": "0.9"}, TypeError, r"decay must be .*, got '0.9'"),
    "start 1.0": ({"start": 1.0}, ValueError, r"start must be .* < 1, or None; got 1"),
    "start -1": ({"start": -1}, ValueError, r"start must be an epoch, .*; got -1"),
    "start inf": ({"start": np.inf}, ValueError, r"start must be .*; got inf"),
    "start nan": ({"start": np.nan}, ValueError, r"start must be .*; got nan"),
    "start text": ({"start": "1"}, TypeError, r"start must be .*; got '1'"),
    "start bool": ({"start": True}, TypeError, r"start must be .*; got True"),
}  # fmt: skip


@pytest.mark.parametrize(("options", "error", "match"), BAD.values(), ids=BAD)
def test_refuses_parameters(options, error, match):
    callback = WeightAveraging(**options)
    with pytest.raises(error, match=match):
        make_net(("averaging", callback)).initialize()


def test_refuses_several():
    net = averaged_net(callbacks=[("second", WeightAveraging("swa"))])
    match = "has 2 WeightAveraging callbacks: 'second', 'averaging'. Expected one"
    with pytest.raises(ValueError, match=match):
        net.fit(X, Y)


def test_warns_of_a_start_that_is_not_reached():
    net = averaged_net("swa", 0.9, 4)
    with pytest.warns(UserWarning, match=r"start=4, .* with max_epochs=4"):
        net.fit(X, Y)
    assert_same(state_of(net), state_of(fitted(make_net())))
    net.partial_fit(X, Y)
    assert callback_of(net).n_averaged_ == 4


def test_an_epoch_without_a_batch():
    with pytest.warns(UserWarning, match="smaller than batch_size"):
        net = fitted(averaged_net(batch_size=30, train_split=None))
    assert callback_of(net).averaged_ is None


class Accumulating(EEGRegressor):
    """Steps once in three batches."""

    def train_step(self, batch, **fit_params):
        if (len(self.history[-1]["batches"]) - 1) % 3 == 0:
            self.optimizer_.zero_grad()
        step = self.train_step_single(batch, **fit_params)
        if len(self.history[-1]["batches"]) % 3 == 0:
            self.optimizer_.step()
        return step


def test_decay_counts_batches_if_gradients_are_accumulated():
    net = fitted(averaged_net("ema", 0.7, cls=Accumulating))
    steps = recorded(make_net(cls=Accumulating))["step"]
    assert callback_of(net).n_averaged_ == len(steps) == 12
    assert_close(params_of(net), numpy_average("ema", steps, 0.7))


def test_a_training_that_stops_before_averaging_is_warned_of():
    net = EEGRegressor(
        "FastEEGNet", max_epochs=20, batch_size=8, verbose=0, lr=0.0,
        train_split=ValidSplit(2),
        callbacks=[WeightAveraging("swa"), EarlyStopping(patience=1)],
    )  # fmt: skip
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(16, 3, 64)).astype("f4"), rng.normal(size=16).astype("f4")
    with pytest.warns(UserWarning, match="epochs, before averaging began"):
        net.fit(X, y)
