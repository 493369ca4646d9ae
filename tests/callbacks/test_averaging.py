"""WeightAveraging: the average, its uses, and what it must leave unchanged."""

import contextlib
import copy
import io
import itertools
import pickle
import random
import signal

import numpy as np
import pytest
import torch
from braindecode.augmentation import AugmentedDataLoader, GaussianNoise
from sklearn.base import clone
from skorch.callbacks import (
    Callback,
    Checkpoint,
    EarlyStopping,
    EpochScoring,
    Freezer,
    Unfreezer,
)
from skorch.dataset import ValidSplit
from skorch.helper import predefined_split
from torch.optim.swa_utils import (
    AveragedModel,
    get_ema_multi_avg_fn,
    get_swa_multi_avg_fn,
    update_bn,
)

from braindecode_sam import SAM
from braindecode_sam.callbacks import ResumableCheckpoint, WeightAveraging
from braindecode_sam.estimators import Regressor
from tests import worker_parts
from tests.optim.helpers import assert_same
from tests.worker_parts import (
    Small,
    Stop,
    assert_same_training,
    augmentation,
    fail,
    interrupt,
    is_same,
    state_of,
)

RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 4, 64)).astype(np.float32)
Y = RNG.normal(size=(24, 1)).astype(np.float32)
KINDS = ["ema", "swa"]
OPTIMIZERS = {
    "AdamW": {"optimizer": torch.optim.AdamW},
    "SAM": {"optimizer": SAM, "optimizer__rho": 0.1, "optimizer__interval": 2},
}


def make_net(*callbacks, **options):
    defaults = OPTIMIZERS["AdamW"] | {"max_epochs": 4, "train_split": ValidSplit(4)}
    return worker_parts.make_net(*callbacks, **(defaults | {"lr": 0.05} | options))


def averaged_net(*args, callbacks=(), **options):
    return make_net(*callbacks, ("averaging", WeightAveraging(*args)), **options)


def fitted(net, X=X, y=Y):
    net.fit(X, y)
    return net


def callback_of(net):
    return dict(net.callbacks_)["averaging"]


def params_of(net):
    named = net.module_.named_parameters()
    return {n: p.detach().clone() for n, p in named if p.requires_grad}


def averaged_params(net):
    averaged = callback_of(net).averaged_
    return {name.removeprefix("module."): value for name, value in averaged.items()}


def training_state(net):
    """Return the module's training state while the net holds the average."""
    training = callback_of(net).training_
    kept = {name.removeprefix("module."): value for name, value in training.items()}
    kept["third.weight"] = kept["again.weight"]  # the shared weight, by its other name
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
    return seen_by(net)


def seen_by(net):
    return dict(net.callbacks_)["record"].seen_


def assert_close(found, expected):
    """Compare tensors with an average in float64, by name."""
    for name, value in expected.items():
        np.testing.assert_allclose(found[name].detach(), value, rtol=1e-5, atol=1e-6)


# The average


def numpy_average(kind, history, decay=0.7):
    """Compute the average in float64."""
    history = [{n: w.numpy().astype(np.float64) for n, w in h.items()} for h in history]
    if kind == "swa":
        return {n: np.mean([h[n] for h in history], axis=0) for n in history[0]}
    average = history[0]
    for weights in history[1:]:
        average = {n: decay * average[n] + (1 - decay) * weights[n] for n in weights}
    return average


@pytest.mark.parametrize(("kind", "optimizer"), [("ema", "SAM"), ("swa", "AdamW")])
def test_the_average_is_that_of_numpy(kind, optimizer):
    steps = recorded(make_net(**OPTIMIZERS[optimizer]))["step"]
    assert len(steps) == 12
    history = steps[3:] if kind == "ema" else steps[5::3]
    net = fitted(averaged_net(kind, 0.7, 1, **OPTIMIZERS[optimizer]))
    assert callback_of(net).n_averaged_ == len(history)
    assert_close(params_of(net), numpy_average(kind, history))
    # Frozen parameters are left out, shared ones are averaged once.
    names = {"first.parametrizations.weight.original", "first.bias", "again.weight"}
    names |= {"norm.weight", "norm.bias", "last.weight", "last.bias"}
    assert averaged_params(net).keys() == names
    assert net.module_.mask.tolist() == [0.0, -np.inf]
    assert torch.linalg.norm(net.module_.first.weight, dim=1).max() <= 0.5 + 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_the_average_includes_the_steps_in_which_a_weight_was_frozen(kind):
    name = "again.weight"
    thaw = [Freezer(name), Unfreezer(name, at=3), ("record", Record(state_of))]
    net = fitted(averaged_net(kind, 0.7, 0, callbacks=thaw))
    steps = [{name: step[name]} for step in seen_by(net)["step"]]
    assert is_same(steps[0], steps[5])
    assert not is_same(steps[0], steps[6])
    history = steps if kind == "ema" else steps[2::3]
    assert_close(params_of(net), numpy_average(kind, history))


class NoNorm(torch.nn.Module):
    """Count forward passes without gradients in training mode."""

    def __init__(self, n_chans, n_times, n_outputs):
        super().__init__()
        self.last = torch.nn.Linear(n_chans, n_outputs)
        self.n_passes = 0

    def forward(self, x):
        self.n_passes += self.training and not torch.is_grad_enabled()
        return self.last(x.square().mean(-1))


@pytest.mark.parametrize("kind", KINDS)
def test_the_average_is_that_of_torch_bit_for_bit(kind):
    steps = recorded(make_net(module=NoNorm))["step"]
    net = fitted(averaged_net(kind, 0.8, 0, module=NoNorm))
    model = copy.deepcopy(net.module_)
    # Not torch's default on a CPU, which rounds differently.
    is_ema = kind == "ema"
    function = get_ema_multi_avg_fn(0.8) if is_ema else get_swa_multi_avg_fn()
    reference = AveragedModel(model, multi_avg_fn=function)
    for weights in steps if is_ema else steps[2::3]:
        model.load_state_dict(weights)
        reference.update_parameters(model)
    assert_same(reference.module.state_dict(), state_of(net))
    assert net.module_.n_passes == 0  # none for BatchNorm's statistics


@pytest.fixture(scope="module")
def losses():
    """Losses without averaging."""
    return fitted(make_net()).history[:, "valid_loss"]


@pytest.mark.parametrize(
    ("start", "kind", "first"),
    [(np.int64(2), "ema", 2), (0.7, "ema", 3), (0.99, "ema", 3), (None, "ema", 0),
     (None, "swa", 3)],
)  # fmt: skip
def test_averaging_begins_at_start(start, kind, first, losses):
    net = fitted(averaged_net(kind, 0.5, start))
    assert callback_of(net).n_averaged_ == {"ema": 3, "swa": 1}[kind] * (4 - first)
    same = [a == b for a, b in zip(losses, net.history[:, "valid_loss"], strict=True)]
    # The average of one weight is that weight, except for BatchNorm's statistics.
    assert same == [True] * first + [False] * (4 - first)


# BatchNorm's statistics


def batches_in_fixed_order(windows, size):
    """Return whole batches. In the data's order, each would hold one subject."""
    order = np.random.default_rng(0).permutation(len(windows))
    windows = torch.tensor(windows)[order]
    return [windows[i : i + size] for i in range(0, len(order) // size * size, size)]


def statistics_of(module):
    names = ("running_mean", "running_var", "num_batches_tracked")
    return {n: value for n, value in module.state_dict().items() if n.endswith(names)}


@pytest.mark.parametrize(
    ("module", "size"), [("FastEEGNeX", 7), (Small, -1), (Small, 23)]
)
def test_statistics_are_those_of_update_bn_on_a_copy(module, size):
    """BatchNorm cannot be trained with the one window that 23 leave."""
    options = {"iterator_valid__batch_size": size, "max_epochs": 2}
    if module == "FastEEGNeX":
        options["module__drop_prob"] = 0.0
    net = averaged_net(module=module, train_split=None, **options)
    fresh = clone(fitted(net)).initialize().module_
    fresh.load_state_dict(state_of(net))
    batches = batches_in_fixed_order(X, 24 if size == -1 else size)
    update_bn(batches, fresh)
    assert_close(statistics_of(net.module_), statistics_of(fresh))


def test_statistics_are_of_windows_without_augmentation():
    noise = {"iterator_train": AugmentedDataLoader}
    noise["iterator_train__transforms"] = [GaussianNoise(1.0, std=5.0)]
    options = {"train_split": None, "lr": 0.0, "iterator_valid__batch_size": -1}
    nets = [fitted(averaged_net(**options, **more)) for more in (noise, {})]
    assert_same(*(statistics_of(net.module_) for net in nets))


class Watched(Small):
    """Has a layer that stays in evaluation mode, and buffers that a forward changes."""

    def __init__(self, n_chans, n_times, n_outputs):
        super().__init__(n_chans, n_times, n_outputs)
        self.frozen = torch.nn.BatchNorm1d(4)
        self.unused = torch.nn.BatchNorm1d(6)
        self.register_buffer("calls", torch.tensor(0))
        self.register_buffer("expanded", torch.ones(1).expand(3))  # is not writable
        self.register_buffer("sparse", torch.eye(3).to_sparse(), persistent=False)
        self.frozen.running_mean.fill_(0.5)
        self.unused.running_mean.fill_(0.5)

    def train(self, mode=True):
        super().train(mode)
        self.frozen.eval()
        return self

    def forward(self, x):
        self.calls = self.calls + 1  # replaced
        return super().forward(self.frozen(x))


def test_the_pass_leaves_modes_momenta_and_other_buffers_unchanged():
    states = []
    for net in (make_net(module=Watched), averaged_net(module=Watched)):
        fitted(net.set_params(train_split=None, lr=0.0))
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
    assert_close(averaged, {"norm.running_mean": torch.stack(means).mean(0)})


class Indexed(torch.utils.data.Dataset):
    """Has an index for each window, as braindecode's windows datasets."""

    def __len__(self):
        return 12

    def __getitem__(self, i):
        return X[i], Y[i], [i, 0, 64]


def test_cropped_scores_find_the_indices_of_the_validation():
    record = ("record", Record(lambda net: net._last_window_inds_))  # braindecode's
    shape = {"module__n_chans": 4, "module__n_times": 64, "module__n_outputs": 1}
    split = predefined_split(torch.utils.data.Subset(Indexed(), range(6, 12)))
    net = averaged_net(callbacks=[record], max_epochs=2, train_split=split, **shape)
    fitted(net, Indexed(), None)
    for indices, *_ in seen_by(net)["validation"]:
        assert indices.tolist() == [6, 7, 8, 9, 10, 11]


# The training


def generators():
    numpys = np.random.get_state()[1].tolist()
    return [torch.get_rng_state().tolist(), numpys, random.getstate()]


@pytest.mark.parametrize(("kind", "optimizer"), [("swa", "SAM"), ("ema", "AdamW")])
def test_the_training_is_that_without_averaging(kind, optimizer):
    """Including all numbers that are drawn, although no random_state protects them."""
    nets, records, drawn = [], [], []
    for average in ([], [("averaging", WeightAveraging(kind, 0.7, 1))]):
        net = make_net(
            *average, ("generators", Record(lambda net: generators())),
            **OPTIMIZERS[optimizer], **augmentation(),
            random_state=None,
            iterator_valid__generator=torch.Generator().manual_seed(2),
        )  # fmt: skip
        for seed in (torch.manual_seed, np.random.seed, random.seed):
            seed(1)
        records.append(recorded(net, state_of))
        drawn.append([dict(net.callbacks_)["generators"].seen_["step"], generators()])
        nets.append(net)
    plain, averaged = nets
    for hook in ("begin", "step"):
        for first, second in zip(*(record[hook] for record in records), strict=True):
            assert_same(first, second)
    assert bool(drawn[0] == drawn[1])  # without pytest's long diff
    states = [net.iterator_valid__generator.get_state() for net in nets]
    assert torch.equal(*states)
    assert_same(state_of(plain), training_state(averaged))
    assert plain.history[:, "train_loss"] == averaged.history[:, "train_loss"]
    optimizers = [repr(net.optimizer_.state_dict()) for net in nets]
    assert bool(optimizers[0] == optimizers[1])
    assert not is_same(params_of(plain), params_of(averaged))


# Uses of the average


def test_the_average_is_what_is_validated_and_predicts():
    cached = ("cached", EpochScoring("neg_mean_squared_error", name="cached"))
    valid = torch.utils.data.TensorDataset(torch.tensor(X[18:]), torch.tensor(Y[18:]))
    net = averaged_net("ema", 0.7, callbacks=[cached, "neg_mean_squared_error"])
    net.set_params(train_split=predefined_split(valid)).fit(X[:18], Y[:18])
    errors = np.square(net.predict(X) - Y)
    for name, expected in {
        "valid_loss": errors[18:].mean(),
        "cached": -errors[18:].mean(),
        "train_neg_mean_squared_error": -errors[:18].mean(),
    }.items():
        np.testing.assert_allclose(net.history[-1, name], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "train_split", "n"), [("ema", None, 4), ("swa", ValidSplit(4), 3)]
)
def test_other_callbacks_find_the_average_at_the_end_of_an_epoch(kind, train_split, n):
    """This includes callbacks before it, and training without validation."""
    before = ("first", Record())
    net = averaged_net(kind, 0.7, 1, callbacks=[before], train_split=train_split)
    seen = recorded(net, state_of)
    first = dict(net.callbacks_)["first"].seen_
    steps = first["step"]  # n in each epoch
    assert_same(steps[n - 1], first["epoch"][0])
    for n_epochs in (2, 3, 4):
        done = steps[: n * n_epochs]
        done = done[n:] if kind == "ema" else done[2 * n - 1 :: n]
        assert_close(first["epoch"][n_epochs - 1], numpy_average(kind, done))
    assert_same(seen["epoch"][-1], state_of(net))
    assert len(seen["validation"]) == (4 if train_split else 0)


class BestIsThird(Callback):
    def on_epoch_end(self, net, **kwargs):
        net.history.record("score", abs(len(net.history) - 3))
        net.history.record("score_best", len(net.history) == 3)


def test_early_stopping_and_checkpoints_keep_the_average(tmp_path):
    best = EarlyStopping("score", load_best=True, patience=9, sink=lambda text: None)
    saved = Checkpoint(dirname=tmp_path, monitor="score_best")
    every = Checkpoint(dirname=tmp_path, monitor=None, fn_prefix="last_")
    net = averaged_net("swa", 0.9, 1, callbacks=[BestIsThird(), best, saved, every])
    seen = recorded(net, state_of)
    steps = [{name: s[name] for name in params_of(net)} for s in seen["step"][5:9:3]]
    assert_close(params_of(net), numpy_average("swa", steps))
    assert_same(seen["epoch"][2], state_of(net))
    assert_same(seen["epoch"][2], torch.load(tmp_path / "params.pt"))
    assert_same(seen["epoch"][3], torch.load(tmp_path / "last_params.pt"))
    # More training continues from the weights that the net holds.
    held = state_of(net)
    net.partial_fit(X, Y)
    assert_same(seen["begin"][4], held)
    assert callback_of(net).n_averaged_ == 4


# Interrupts and failures


@pytest.mark.parametrize("action", [interrupt, fail])
@pytest.mark.parametrize(
    ("kind", "in_validation", "n_steps", "n_averaged"),
    [("ema", False, 7, 16), ("swa", False, 7, 5), ("swa", True, 9, 6)],
)
def test_a_training_that_is_cut_off_leaves_no_mixture_and_continues(
    kind, in_validation, n_steps, n_averaged, action
):
    callbacks = [("stop", Stop(3, action, in_validation)), ("record", Record())]
    net = averaged_net(kind, 0.7, 1, callbacks=callbacks)
    is_raised = action is fail
    with pytest.raises(RuntimeError) if is_raised else contextlib.nullcontext():
        net.fit(X, Y)
    steps = seen_by(net)["step"]
    assert len(steps) == n_steps
    if is_raised and not in_validation:
        assert is_same(steps[-1], state_of(net))
    else:
        done = steps[3:] if kind == "ema" else steps[5::3]
        assert_close(params_of(net), numpy_average(kind, done))
        assert int(net.module_.norm.num_batches_tracked) == 3
        assert is_same(steps[-1], training_state(net))
    net.partial_fit(X, Y)
    assert callback_of(net).n_averaged_ == n_averaged


@pytest.mark.parametrize(
    ("action", "failing"), [(interrupt, {5}), (interrupt, {5, 7}), (fail, {5})]
)
def test_a_failed_pass_for_statistics_is_rolled_back(action, failing, monkeypatch):
    """After an interrupt, it is repeated at the end of the training."""

    def forward(module, x):
        if module.training and not torch.is_grad_enabled() and next(calls) in failing:
            if action is interrupt:
                signal.raise_signal(signal.SIGINT)
            action()
        return original(module, x)

    calls, original = itertools.count(1), Small.forward
    monkeypatch.setattr(Small, "forward", forward)
    net = averaged_net("swa", 0.9, 0, callbacks=[("record", Record(state_of))])
    before = torch.get_rng_state()
    is_repeated = action is interrupt and failing == {5}
    errors = (RuntimeError, KeyboardInterrupt)
    with contextlib.nullcontext() if is_repeated else pytest.raises(errors):
        net.fit(X, Y)
    assert torch.equal(before, torch.get_rng_state())
    assert net.module_.norm.momentum == 0.1
    steps = seen_by(net)["step"]
    weights = [{name: s[name] for name in averaged_params(net)} for s in steps[2::3]]
    assert_close(averaged_params(net), numpy_average("swa", weights))
    if is_repeated:
        assert len(net.history) == 2
        assert_same(params_of(net), averaged_params(net))
        assert int(net.module_.norm.num_batches_tracked) == 3
        assert_same(training_state(net), steps[-1])
    else:
        assert_same(state_of(net), steps[-1])
        assert callback_of(net).training_ is None


@pytest.mark.parametrize(
    ("kind", "owner", "function", "numbers"),
    [("ema", torch.Tensor, "copy_", range(1, 36, 4)),
     ("swa", torch.Tensor, "copy_", range(3, 36, 4)),
     ("ema", torch, "_foreach_lerp_", range(1, 4))],
)  # fmt: skip
def test_ctrl_c_in_the_callback_leaves_no_mixture(
    kind, owner, function, numbers, monkeypatch
):
    """Each number interrupts another call of the callback."""
    seen = recorded(make_net(max_epochs=2))
    states = [seen["begin"][0], *seen["step"]]
    history = seen["step"] if kind == "ema" else seen["step"][2::3]
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
        with contextlib.suppress(KeyboardInterrupt):  # skorch catches none at the end
            net.fit(X, Y)
        monkeypatch.undo()
        callback, now = callback_of(net), state_of(net)
        is_in = callback.training_ is not None
        training = training_state(net) if is_in else now
        assert any(is_same(state, training) for state in states)
        if callback.n_averaged_:
            expected = numpy_average(kind, history[: callback.n_averaged_])
            assert_close(averaged_params(net), expected)
            assert not is_in or is_same(averaged_params(net), now)


# More training, copies, resuming


@pytest.mark.parametrize(("kind", "is_warm_start"), [("ema", False), ("swa", True)])
def test_more_training_continues_from_the_training_weights(kind, is_warm_start):
    def net(n_epochs):
        options = {"max_epochs": n_epochs, "warm_start": is_warm_start}
        net = averaged_net(kind, 0.7, 1, cls=Regressor, train_split=None, **options)
        net.set_params(random_state=None)
        torch.manual_seed(0)
        return fitted(net)

    whole, parts = net(4), net(2)
    assert not is_same(state_of(whole), state_of(parts))
    (parts.fit if is_warm_start else parts.partial_fit)(X, Y)
    assert_same(state_of(whole), state_of(parts))
    assert_same(training_state(whole), training_state(parts))
    assert callback_of(whole).n_averaged_ == callback_of(parts).n_averaged_


def test_averaging_starts_again_from_weights_that_were_loaded_and_after_set_params():
    file = io.BytesIO()
    other = fitted(averaged_net(max_epochs=1))
    other.save_params(f_params=file)
    file.seek(0)
    net = averaged_net(callbacks=[("record", Record(state_of))])
    begins = seen_by(fitted(net))["begin"]
    net.load_params(f_params=file)
    net.partial_fit(X, Y)
    assert_same(begins[4], state_of(other))
    assert callback_of(net).n_averaged_ == 12
    net.set_params(callbacks__averaging__decay=0.5)
    assert callback_of(net).averaged_ is None
    net.partial_fit(X, Y)
    assert callback_of(net).n_averaged_ == 12


def test_nets_are_copied_pickled_and_cloned():
    class Pickling(Callback):
        """Keep a pickle of the module and of the callback in the third epoch."""

        def on_epoch_end(self, net, **kwargs):
            if len(net.history) == 3:
                kept.extend(map(pickle.dumps, (net.module_, callback_of(net))))

    kept, pickling = [], ("pickling", Pickling())
    net = averaged_net("ema", 0.7, 1, callbacks=[pickling], module="FastEEGNet")
    fitted(net.set_params(max_epochs=3))
    module, callback = map(pickle.loads, kept)
    assert_same(module.state_dict(), state_of(net))
    assert callback.n_averaged_ == 6
    assert X[0].tobytes() not in kept[1]
    net.callbacks.remove(pickling)
    net.callbacks_.remove(pickling)
    others = [pickle.loads(pickle.dumps(net)), copy.deepcopy(net), net]
    for other in others:
        np.testing.assert_array_equal(other.predict(X), net.predict(X))
    for other in others:
        torch.manual_seed(0)
        other.partial_fit(X, Y)
        assert_same(state_of(other), state_of(others[0]))
    other = dict(clone(net).callbacks)["averaging"]
    assert other.get_params() == {"kind": "ema", "decay": 0.7, "start": 1}
    assert other.averaged_ is None


@pytest.mark.parametrize(
    ("kind", "is_before", "stop"),
    [("ema", True, (2, False)), ("swa", False, (3, False)), ("ema", False, (4, True)),
     ("ema", True, None), ("swa", False, None)],
)  # fmt: skip
def test_a_failed_or_finished_training_is_resumed_bit_for_bit(
    kind, is_before, stop, tmp_path
):
    def net(name, max_epochs=5, stop=None):
        checkpoint = ResumableCheckpoint(tmp_path / name)
        average = WeightAveraging(kind, 0.7, 1)
        callbacks = [("checkpoint", checkpoint), ("averaging", average)]
        callbacks = [*callbacks[:: 1 if is_before else -1], ("stop", stop or Stop())]
        options = OPTIMIZERS["SAM"] | {"max_epochs": max_epochs}
        return make_net(*callbacks, **options), checkpoint

    whole = fitted(net("whole.pt")[0])
    if stop is None:
        fitted(net("run.pt", max_epochs=3)[0])
    else:
        with pytest.raises(RuntimeError, match="power cut"):
            fitted(net("run.pt", stop=Stop(stop[0], fail, stop[1]))[0])
    torch.manual_seed(99)
    for name in ("run.pt", "whole.pt"):  # which has no epochs left
        resumed, checkpoint = net(name)
        checkpoint.resume(resumed, X, Y)
        assert_same_training(whole, resumed)
        first, second = callback_of(whole), callback_of(resumed)
        assert_same(first.averaged_, second.averaged_)
        assert_same(first.training_, second.training_)
        assert first.n_averaged_ == second.n_averaged_


# Bad input


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"kind": "mean"}, ValueError, "kind must be one of 'ema', 'swa', got 'mean'"),
        ({"decay": 1.0}, ValueError, r"decay must be a number >= 0 and < 1, got 1\.0"),
        ({"decay": np.nan}, ValueError, "decay must be .* < 1, got nan"),
        ({"decay": "0.9"}, TypeError, "decay must be .*, got '0.9'"),
        ({"start": 1.0}, ValueError, r"start must be .* < 1, or None; got 1\.0"),
        ({"start": -1}, ValueError, "start must be an epoch, .*; got -1"),
        ({"start": np.nan}, ValueError, "start must be .*; got nan"),
        ({"start": True}, TypeError, "start must be .*; got True"),
    ],
)
def test_refuses_parameters(options, error, match):
    with pytest.raises(error, match=match):
        make_net(("averaging", WeightAveraging(**options))).initialize()


def test_refuses_several():
    net = averaged_net(callbacks=[("second", WeightAveraging("swa"))])
    match = "has 2 WeightAveraging callbacks: 'second', 'averaging'. Expected one"
    with pytest.raises(ValueError, match=match):
        net.fit(X, Y)


def test_warns_if_nothing_is_averaged():
    net = averaged_net("swa", 0.9, 4)
    with pytest.warns(UserWarning, match=r"start=4, .* with max_epochs=4"):
        net.fit(X, Y)
    assert_same(state_of(net), state_of(fitted(make_net())))
    net.partial_fit(X, Y)
    assert callback_of(net).n_averaged_ == 4
    net = averaged_net("swa", 0.9, 3, callbacks=[("stop", Stop(3, interrupt))])
    with pytest.warns(UserWarning, match="ended after 3 epochs, before averaging beg"):
        fitted(net)
    assert callback_of(net).averaged_ is None
    assert int(net.module_.norm.num_batches_tracked) == 7
    with pytest.warns(UserWarning, match="smaller than batch_size"):
        net = fitted(averaged_net(batch_size=30, train_split=None))  # no batch
    assert callback_of(net).averaged_ is None
