"""Trainings that are killed and resume, files that are truncated, and what changed."""

import contextlib
import functools
import logging
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from braindecode.augmentation import GaussianNoise as StockNoise
from skorch.callbacks import Checkpoint, Freezer, LRScheduler, Unfreezer
from torch.optim.lr_scheduler import StepLR

from braindecode_sam import SAM, SAMCallback, TimeShift
from braindecode_sam.augmentation import GaussianNoise
from braindecode_sam.callbacks import ResumableCheckpoint
from braindecode_sam.datasets import SubjectWindows
from braindecode_sam.model_selection import SubjectSplit
from braindecode_sam.nets import Classifier
from braindecode_sam.optim import FriendlySAM, LookSAM
from tests.worker_parts import (
    Stop,
    X,
    Y,
    assert_same_training,
    fail,
    interrupt,
    make_net,
    one_cycle,
    resumable_net,
)

LABELS = (Y > 0).astype(int)


def trained(file, stop=None, **options):
    net = resumable_net(ResumableCheckpoint(file), stop, **options)
    net.fit(X, Y)
    return net


def resume(file, data=(X, Y), changed="raise", **options):
    checkpoint = ResumableCheckpoint(file)
    net = resumable_net(checkpoint, **options)
    return checkpoint.resume(net, *data, changed=changed)


def drawn_by(net):
    return net.iterator_train__transforms[0].rng.randint(1 << 30)


def test_resumes_after_sigkill_bit_for_bit(tmp_path):
    """In another process, lambdas, sets and local classes have the same description."""
    file = tmp_path / "killed.pt"
    script = f"from tests.worker_parts import *; train_until_killed({str(file)!r}, 4)"
    command = [sys.executable, "-W", "ignore", "-c", script]
    killed = subprocess.run(command, check=False, cwd=Path(__file__).parents[2])
    assert killed.returncode == -signal.SIGKILL
    content = torch.load(file, weights_only=True)
    assert len(content["history"]) == 3
    resumed, whole = resume(file), trained(tmp_path / "whole.pt")
    assert_same_training(whole, resumed)
    assert drawn_by(whole) == drawn_by(resumed)
    assert len(resumed.history) == 4


def test_other_groups_are_other_data(tmp_path):
    def net(max_epochs):
        checkpoint = ResumableCheckpoint(tmp_path / "run.pt")
        options = {"max_epochs": max_epochs, "train_split": SubjectSplit(2)}
        return make_net(checkpoint, **options), checkpoint

    windows, groups = np.asarray(X), X.groups
    net(1)[0].fit(windows, Y, groups=groups)
    again, checkpoint = net(2)
    with pytest.raises(ValueError, match="groups was shape"):
        checkpoint.resume(again, windows, Y, groups=np.roll(groups, 6))
    assert len(checkpoint.resume(again, windows, Y, groups=groups).history) == 2


@pytest.mark.parametrize(
    ("cls", "epoch", "action"),
    [(SAM, 3, interrupt), (FriendlySAM, 2, fail), (LookSAM, 4, fail)],
)
def test_resumes_after_a_failure_within_an_epoch_bit_for_bit(
    cls, epoch, action, tmp_path
):
    whole = trained(tmp_path / "whole.pt", optimizer=cls)
    file, stop = tmp_path / "failed.pt", Stop(epoch, action)
    is_raised = action is fail
    with pytest.raises(RuntimeError) if is_raised else contextlib.nullcontext():
        trained(file, stop, optimizer=cls)
    torch.manual_seed(99)
    np.random.seed(99)
    resumed = resume(file, optimizer=cls)
    assert_same_training(whole, resumed)
    assert drawn_by(whole) == drawn_by(resumed)


@pytest.mark.parametrize(
    ("optimizer", "schedule"),
    [
        (SAM, lambda: LRScheduler(StepLR, step_size=1)),
        (SAM, lambda: SAMCallback(rho=lambda epoch: 0.1 * (epoch + 1))),
        (torch.optim.AdamW, one_cycle),
    ],
    ids=["steps", "rho", "cycle"],
)
def test_a_schedule_may_come_after_the_checkpoint(optimizer, schedule, tmp_path):
    def net(name, stop=None):
        checkpoint = ResumableCheckpoint(tmp_path / name)
        callbacks = [("checkpoint", checkpoint), ("schedule", schedule())]
        net = make_net(*callbacks, stop or Stop(), optimizer=optimizer, max_epochs=3)
        return net, checkpoint

    whole, _ = net("whole.pt")
    whole.fit(X, Y)
    with pytest.raises(RuntimeError, match="power cut"):
        net("failed.pt", Stop(2, fail))[0].fit(X, Y)
    resumed, checkpoint = net("failed.pt")
    assert_same_training(whole, checkpoint.resume(resumed, X, Y))


def test_early_stopping_stays_stopped(tmp_path):
    options = {"max_epochs": 30, "lr": 0.0, "callbacks__early__patience": 1}
    net = trained(tmp_path / "run.pt", **options)
    assert len(net.history) < 30
    assert_same_training(net, resume(tmp_path / "run.pt", **options))


def test_a_finished_training_continues_for_more_epochs(tmp_path):
    """A classifier, with a metric that draws from the generators."""

    def net(name, max_epochs):
        checkpoint = ResumableCheckpoint(tmp_path / name, every=2)
        callbacks = [checkpoint, "accuracy"]
        options = {"cls": Classifier, "max_epochs": max_epochs}
        options["train_split"] = resumable_net(checkpoint).train_split
        return make_net(**options).set_params(callbacks=callbacks), checkpoint

    whole, _ = net("whole.pt", 4)
    whole.fit(X, LABELS)
    net("short.pt", 2)[0].fit(X, LABELS)
    resumed, checkpoint = net("short.pt", 4)
    assert_same_training(whole, checkpoint.resume(resumed, X, LABELS))


# Files


@pytest.mark.parametrize("kept", [0.0, 0.9])
def test_a_truncated_file_is_refused_by_name(kept, tmp_path):
    file = tmp_path / "cut.pt"
    trained(file, max_epochs=1)
    content = file.read_bytes()
    file.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(ValueError, match=r"cut\.pt' is not a complete checkpoint"):
        resume(file)


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_the_previous_file_survives_a_failed_write(error, tmp_path, monkeypatch):
    file = tmp_path / "run.pt"
    net = trained(file, max_epochs=1)
    before = file.read_bytes()

    def half_written(state, target):
        target.write(b"half")
        raise error("No space left on device")

    monkeypatch.setattr(torch, "save", half_written)
    with pytest.raises(error, match="No space"):
        dict(net.callbacks_)["checkpoint"].on_train_end(net)
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


def test_refuses_other_nets_and_files(tmp_path):
    file = tmp_path / "run.pt"
    with pytest.raises(FileNotFoundError, match=r"run\.pt"):
        resume(file)
    checkpoint = ResumableCheckpoint(file)
    other = resumable_net(ResumableCheckpoint(tmp_path / "other.pt"))
    with pytest.raises(ValueError, match="does not contain this ResumableCheckpoint"):
        checkpoint.resume(other, X, Y)
    assert not checkpoint.exists()
    trained(file, max_epochs=1)
    assert checkpoint.exists()
    fewer = SubjectWindows(np.asarray(X)[:, :3], X.groups)
    with pytest.raises(ValueError, match="The checkpoint's module_ does not fit that"):
        resume(file, data=(fewer, Y), changed="ignore")
    with pytest.raises(ValueError, match="changed must be one of 'raise', 'ignore'"):
        resume(file, changed="maybe")
    torch.save({"weights": 1}, file)
    with pytest.raises(ValueError, match="was written by other software or by an old"):
        resume(file)
    with pytest.raises(FileNotFoundError, match=r"none' is none; got"):
        trained(tmp_path / "none" / "run.pt")


@pytest.mark.parametrize(("every", "error"), [(0, ValueError), ("1", TypeError)])
def test_refuses_every(every, error):
    with pytest.raises(error, match=f"every must be an integer >= 1, got {every!r}"):
        ResumableCheckpoint(every=every).initialize()


# The training to which a checkpoint belongs


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """File of a training that failed in its third epoch."""
    file = tmp_path_factory.mktemp("written") / "failed.pt"
    with pytest.raises(RuntimeError, match="power cut"):
        trained(file, Stop(3, fail))
    return file


@pytest.fixture
def interrupted(written, tmp_path):
    """The same, for tests that continue the training."""
    file = tmp_path / "failed.pt"
    file.write_bytes(written.read_bytes())
    return file


OTHER_SUBJECTS = SubjectWindows(np.asarray(X), X.groups[::-1])
CHANGED = np.array(X)
CHANGED[17, 2, 3] += 1
SGD = functools.partial(torch.optim.SGD, lr=0.1)
OTHER = [
    ({"optimizer__rho": 0.5}, "optimizer__rho was 0.1, is 0.5"),
    ({"lr": 0.5}, "lr was 0.01, is 0.5"),
    ({"callbacks__sam__schedule": "linear"}, "schedule was 'cosine', is 'linear'"),
    ({"optimizer": LookSAM}, "optimizer was .*SAM, is .*LookSAM"),
    ({"optimizer__base_optimizer": SGD}, r"is partial\[torch.*.SGD, {lr: 0.1}\]"),
    ({"iterator_train__transforms": []}, r"transforms was \[.*TimeShift.*, is \[\]"),
    ({"iterator_train__num_workers": 1}, "train__num_workers was not set, is 1"),
    ({"data": (OTHER_SUBJECTS, Y)}, "groups was shape"),
    ({"data": (X, np.append(Y[:-1], 0.5))}, "y was shape"),
    ({"data": (np.asarray(X) + 1, Y)}, "X was shape"),
    ({"data": (SubjectWindows(CHANGED, X.groups), Y)}, "X was shape"),
    ({"data": (X[:30], Y[:30])}, r"X was shape \(36.*, is shape \(30"),
]


@pytest.mark.filterwarnings("ignore:.*SubjectSplit:UserWarning")
@pytest.mark.parametrize(("options", "match"), OTHER)
def test_settings_and_data_that_have_changed_are_named(options, match, written):
    before = written.read_bytes()
    with pytest.raises(ValueError, match=rf"is of another training: .*{match}"):
        resume(written, **options)
    assert written.read_bytes() == before


class Holder:
    def __init__(self, held):
        self.held = held

    def method(self):
        return self.held


def linear(seed):
    torch.manual_seed(seed)
    return torch.nn.Linear(3, 2)


# Functions of two settings that must be distinguished.
PAIRS = {
    "functions": lambda: (np.exp, np.log),
    "paths": lambda: (Path("a"), Path("b")),
    "members": lambda: (signal.SIGINT, signal.SIGTERM),
    "classes": lambda: (GaussianNoise(0.5, std=0.1), StockNoise(0.5, std=0.1)),
    "partial": lambda: (functools.partial(max, 1), functools.partial(max, 2)),
    "methods": lambda: (Holder(1).method, Holder(2).method),
    "sets": lambda: ({"a", "b"}, {"a", "c"}),
    "arrays": lambda: (np.array([1.0, 2.0]), np.array([1.0, 3.0])),
    "series": lambda: (pd.Series([1.0, 2.0]), pd.Series([1.0, 3.0])),
    "tensors": lambda: (torch.tensor([1.0]), torch.tensor([1.0, 1.0])),
    "weights": lambda: (linear(0), linear(1)),
    "objects": lambda: (Holder([Holder({"x": 1})]), Holder([Holder({"x": 2})])),
}


def of_settings(file, choose=lambda pair: pair[0]):
    """Return a net whose module gets the first setting of each pair."""
    settings = {name: choose(pair()) for name, pair in PAIRS.items()}
    recursive = Holder(logging.getLogger("braindecode_sam"))
    recursive.other = [recursive]
    shift = TimeShift(0.5, random_state=0)
    if file.exists():
        shift.rng.randint(9)  # what was drawn is no setting
    checkpoint = ResumableCheckpoint(file)
    net = make_net(("checkpoint", checkpoint), max_epochs=1, batch_size=18)
    # In lists, since skorch would take some of them for parts of the net.
    given = {f"module__{name}": [value] for name, value in settings.items()}
    return net.set_params(module__more=[recursive, shift], **given), checkpoint


def test_settings_of_any_kind_are_distinguished_and_equal_ones_are_not(tmp_path):
    file = tmp_path / "settings.pt"
    of_settings(file)[0].fit(X, Y)
    net, checkpoint = of_settings(file)
    assert len(checkpoint.resume(net, X, Y).history) == 1
    net, checkpoint = of_settings(file, lambda pair: pair[1])
    with pytest.raises(ValueError, match="is of another training") as raised:
        checkpoint.resume(net, X, Y)
    unnoticed = {n for n in PAIRS if f"module__{n} was [" not in str(raised.value)}
    assert not unnoticed
    assert "module__more" not in str(raised.value)


def test_some_settings_may_change(interrupted):
    options = {"max_epochs": 3, "iterator_valid__pin_memory": False}
    options["n_threads"] = 2
    assert len(resume(interrupted, **options).history) == 3


def test_reading_random_data_draws_no_numbers(tmp_path):
    class Random(torch.utils.data.Dataset):
        def __len__(self):
            return 12

        def __getitem__(self, i):
            return torch.randn(4, 64), np.float32(np.random.rand(1))

    checkpoint, nets = ResumableCheckpoint(tmp_path / "run.pt"), []
    shape = {"module__n_chans": 4, "module__n_times": 64, "module__n_outputs": 1}
    for callbacks in ([], [checkpoint], [checkpoint]):
        nets.append(make_net(*callbacks, random_state=None, **shape))
    torch.manual_seed(0)
    np.random.seed(0)
    nets[0].fit(Random(), None)
    torch.manual_seed(0)
    np.random.seed(0)
    nets[1].fit(Random(), None)
    assert_same_training(*nets[:2])
    assert_same_training(nets[1], checkpoint.resume(nets[2], Random()))


def test_layers_that_were_frozen_stay_frozen(tmp_path):
    def freezing():
        return [Freezer("again*"), Unfreezer("again*", at=4)]

    whole = make_net(ResumableCheckpoint(tmp_path / "whole.pt"), *freezing())
    whole.set_params(max_epochs=4).fit(X, Y)
    file, nets = tmp_path / "run.pt", []
    for n_epochs in (2, 3, 4):
        checkpoint = ResumableCheckpoint(file)
        net = make_net(checkpoint, *freezing()).set_params(max_epochs=n_epochs)
        run = checkpoint.resume if file.exists() else lambda net, *data: net.fit(*data)
        options = {"changed": "ignore"} if file.exists() else {}
        run(net, X, Y, **options)
        nets.append(net)
    weights = [net.module_.again.weight for net in nets]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[1], weights[2])
    assert_same_training(whole, nets[-1])


def test_changed_settings_take_effect_if_ignored(interrupted):
    options = {"optimizer__weight_decay": 0.3, "optimizer__interval": 2}
    net = resume(interrupted, changed="ignore", **options)
    assert net.optimizer_.param_groups[0]["weight_decay"] == 0.3
    assert net.optimizer_.param_groups[0]["interval"] == 2
    assert len(net.history) == 4


@pytest.mark.parametrize(
    ("lr", "step_size", "expected"),
    [(0.1, 1, [0.025, 0.0125]), (0.2, 1, [0.2, 0.1]), (0.1, 2, [0.1, 0.1])],
    ids=["data", "lr", "schedule"],
)
def test_a_changed_schedule_or_rate_takes_effect_if_ignored(
    lr, step_size, expected, tmp_path
):
    def net(lr, step_size, max_epochs):
        checkpoint = ResumableCheckpoint(tmp_path / "run.pt")
        schedule = LRScheduler(StepLR, step_size=step_size, gamma=0.5)
        callbacks = [("checkpoint", checkpoint), ("schedule", schedule)]
        return make_net(*callbacks, lr=lr, max_epochs=max_epochs), checkpoint

    net(0.1, 1, 2)[0].fit(X, Y)
    resumed, checkpoint = net(lr, step_size, 4)
    checkpoint.resume(resumed, X, Y + 1, changed="ignore")
    assert resumed.history[2:, "event_lr"] == pytest.approx(expected)


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": LookSAM},
        {"optimizer__base_optimizer": torch.optim.Adamax},
        {"optimizer__param_groups": [("*bias", {"weight_decay": 0.0})]},
        {"callbacks__sam": None},
    ],
    ids=["LookSAM", "Adamax", "groups", "callback"],
)
def test_another_optimizer_starts_without_a_state_if_ignored(options, interrupted):
    net = resume(interrupted, changed="ignore", **options)
    assert len(net.history) == 4
    n_batches = len(net.history[-1]["batches"])
    assert net.optimizer_.param_groups[0]["n_steps"] < 3 * n_batches


def test_a_training_that_continued_in_partial_fit_keeps_its_options(tmp_path):
    net = trained(tmp_path / "run.pt", max_epochs=2)
    net.partial_fit(X, Y[:, None])
    again = resume(tmp_path / "run.pt", max_epochs=2)
    options = [
        {k: v for k, v in n.optimizer_.param_groups[0].items() if k != "params"}
        for n in (again, net)
    ]
    assert options[0] == options[1]


def test_callbacks_get_their_own_state_in_any_order(interrupted):
    checkpoint = ResumableCheckpoint(interrupted)
    net = resumable_net(checkpoint)
    net.callbacks[3:] = net.callbacks[:2:-1]
    checkpoint.resume(net, X, Y)
    assert len(net.history) == 4
    assert dict(net.callbacks_)["early"].dynamic_threshold_ is not None


@pytest.mark.filterwarnings("ignore:The net holds .* generators:UserWarning")
def test_new_callbacks_start_without_a_state_if_ignored(interrupted):
    checkpoint = ResumableCheckpoint(interrupted)
    net = resumable_net(checkpoint, iterator_train__transforms=[])
    net.callbacks[-1] = ("early", Checkpoint(dirname=interrupted.parent / "best"))
    with pytest.raises(ValueError, match=r"callbacks__early was .*, is .*Checkpoint"):
        checkpoint.resume(net, X, Y)
    checkpoint.resume(net, X, Y, changed="ignore")
    assert len(net.history) == 4
    assert not hasattr(dict(net.callbacks_)["early"], "dynamic_threshold_")
