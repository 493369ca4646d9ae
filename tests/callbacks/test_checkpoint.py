"""Trainings that are killed and resume, and files that are truncated."""

import json
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from braindecode import EEGClassifier, EEGRegressor
from skorch.callbacks import Checkpoint, LRScheduler

from braindecode_sam import SAM, SAMCallback
from braindecode_sam.callbacks import ResumableCheckpoint, SeedCallback
from braindecode_sam.callbacks._fingerprint import data_of, described
from braindecode_sam.callbacks.checkpoint import read_checkpoint
from braindecode_sam.datasets import SubjectWindows
from braindecode_sam.optim import LookSAM
from tests.killed_training import Stop, X, Y, make_net
from tests.optim.helpers import FAMILY, assert_same

pytestmark = pytest.mark.slow


def trained(checkpoint, cls=SAM, **options):
    net = make_net(checkpoint, Stop(), cls, **options)
    net.fit(X, Y)
    return net


def rows(net):
    """Return the history without durations, which always differ."""
    rows = [{k: v for k, v in row.items() if k != "dur"} for row in net.history]
    return json.dumps(rows)


def assert_same_training(first, second):
    assert bool(rows(first) == rows(second))  # without pytest's long diff
    assert_same(first.module_.state_dict(), second.module_.state_dict())
    states = [repr(net.optimizer_.state_dict()) for net in (first, second)]
    assert states[0] == states[1]
    generators = [net.iterator_train__transforms[0].rng for net in (first, second)]
    assert generators[0].randint(1 << 30) == generators[1].randint(1 << 30)


def fail():
    raise RuntimeError("power cut")


def test_resumes_after_sigkill_bit_for_bit(tmp_path, tried):
    file = tmp_path / "killed.pt"
    command = [sys.executable, "-m", "tests.killed_training", file, "4"]
    root = Path(__file__).parents[2]
    killed = subprocess.run(command, check=False, cwd=root, stderr=subprocess.DEVNULL)
    assert killed.returncode == -signal.SIGKILL
    assert len(read_checkpoint(file)["history"]) == 3
    checkpoint = ResumableCheckpoint(file)
    resumed = checkpoint.resume(make_net(checkpoint, Stop()), X, Y)
    whole = trained(ResumableCheckpoint(tmp_path / "whole.pt"))
    assert_same_training(whole, resumed)
    assert len(resumed.history) == 5
    tried["trainings killed and resumed"] += 1


@pytest.mark.parametrize("cls", FAMILY)
@pytest.mark.parametrize("epoch", [2, 5])
def test_resumes_after_a_failure_bit_for_bit(cls, epoch, tmp_path, tried):
    whole = trained(ResumableCheckpoint(tmp_path / "whole.pt"), cls)
    checkpoint = ResumableCheckpoint(tmp_path / "failed.pt")
    with pytest.raises(RuntimeError, match="power cut"):
        make_net(checkpoint, Stop(epoch, fail), cls).fit(X, Y)
    torch.manual_seed(99)
    np.random.seed(99)
    resumed = checkpoint.resume(make_net(checkpoint, Stop(), cls), X, Y)
    assert_same_training(whole, resumed)
    tried["trainings killed and resumed"] += 1


@pytest.mark.parametrize("cls", [SAM, torch.optim.AdamW])
@pytest.mark.parametrize("is_schedule_first", [True, False])
@pytest.mark.parametrize("schedule", ["cycle", "steps", "rho"])
def test_schedules_may_be_listed_anywhere(cls, is_schedule_first, schedule, tmp_path):
    if schedule == "rho" and cls is not SAM:
        pytest.skip("a schedule of rho needs a SAM")
    schedules = {
        "cycle": lambda: LRScheduler(
            torch.optim.lr_scheduler.OneCycleLR, max_lr=0.01, total_steps=99,
            step_every="batch",
        ),
        "steps": lambda: LRScheduler(torch.optim.lr_scheduler.StepLR, step_size=1),
        "rho": lambda: SAMCallback(rho=lambda epoch: 0.1 * (epoch + 1)),
    }  # fmt: skip

    def net(checkpoint, stop=None):
        callbacks = [("schedule", schedules[schedule]()), ("checkpoint", checkpoint)]
        callbacks = callbacks if is_schedule_first else callbacks[::-1]
        return EEGRegressor(
            "FastEEGNet", optimizer=cls, max_epochs=4, batch_size=6, verbose=0,
            train_split=None, callbacks=[*callbacks, stop or Stop()],
        )  # fmt: skip

    torch.manual_seed(0)
    whole = net(ResumableCheckpoint(tmp_path / "whole.pt"))
    whole.fit(X, Y)
    torch.manual_seed(0)
    checkpoint = ResumableCheckpoint(tmp_path / "failed.pt")
    with pytest.raises(RuntimeError, match="power cut"):
        net(checkpoint, Stop(3, fail)).fit(X, Y)
    resumed = checkpoint.resume(net(checkpoint), X, Y)
    assert bool(rows(whole) == rows(resumed))
    assert_same(whole.module_.state_dict(), resumed.module_.state_dict())
    states = [repr(net.optimizer_.state_dict()) for net in (whole, resumed)]
    assert states[0] == states[1]


def test_ctrl_c_within_an_epoch_resumes_from_its_beginning(tmp_path):
    def interrupt():
        raise KeyboardInterrupt

    whole = trained(ResumableCheckpoint(tmp_path / "whole.pt"))
    checkpoint = ResumableCheckpoint(tmp_path / "interrupted.pt")
    make_net(checkpoint, Stop(3, interrupt)).fit(X, Y)
    assert_same_training(whole, checkpoint.resume(make_net(checkpoint, Stop()), X, Y))


def test_early_stopping_stays_stopped_and_a_finished_training_finished(tmp_path):
    checkpoint = ResumableCheckpoint(tmp_path / "run.pt", every=2)
    net = make_net(checkpoint, Stop(), max_epochs=30)
    net.set_params(callbacks__early__patience=1, lr=0.0)
    net.fit(X, Y)
    n_epochs = len(net.history)
    assert n_epochs < 30
    again = make_net(checkpoint, Stop(), max_epochs=30)
    again.set_params(callbacks__early__patience=1, lr=0.0)
    checkpoint.resume(again, X, Y)
    assert len(again.history) == n_epochs
    assert_same(net.module_.state_dict(), again.module_.state_dict())
    assert checkpoint.exists()


def test_a_finished_training_continues_for_more_epochs(tmp_path):
    """A classifier, with a metric that draws from the generators."""

    def net(checkpoint, max_epochs):
        return EEGClassifier(
            "FastEEGNeX", optimizer=SAM, max_epochs=max_epochs, batch_size=6, verbose=0,
            callbacks=[checkpoint, SeedCallback(2), "accuracy"],
        )  # fmt: skip

    labels = (Y > 0).astype(int)
    whole = net(ResumableCheckpoint(tmp_path / "whole.pt"), 4)
    whole.fit(np.asarray(X), labels)
    checkpoint = ResumableCheckpoint(tmp_path / "short.pt")
    net(checkpoint, 2).fit(np.asarray(X), labels)
    resumed = checkpoint.resume(net(checkpoint, 4), np.asarray(X), labels)
    assert bool(rows(whole) == rows(resumed))
    assert_same(whole.module_.state_dict(), resumed.module_.state_dict())


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_refused_by_name(kept, tmp_path, tried):
    file = tmp_path / "cut.pt"
    checkpoint = ResumableCheckpoint(file)
    trained(checkpoint, max_epochs=1)
    content = file.read_bytes()
    file.write_bytes(content[: int(kept * len(content))])
    net = make_net(checkpoint, Stop())
    with pytest.raises(ValueError, match=r"cut\.pt' is not a complete checkpoint"):
        checkpoint.resume(net, X, Y)
    tried["truncated checkpoints"] += 1


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_the_previous_file_survives_a_failed_write(error, tmp_path, monkeypatch):
    file = tmp_path / "run.pt"
    checkpoint = ResumableCheckpoint(file)
    net = trained(checkpoint, max_epochs=2)
    before = file.read_bytes()

    def half_written(state, target):
        target.write(b"half")
        raise error("No space left on device")

    monkeypatch.setattr(torch, "save", half_written)
    with pytest.raises(error, match="No space"):
        checkpoint.on_train_end(net)
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


def test_refuses_other_nets(tmp_path):
    checkpoint = ResumableCheckpoint(tmp_path / "run.pt")
    net = make_net(ResumableCheckpoint(tmp_path / "other.pt"), Stop())
    with pytest.raises(ValueError, match="does not contain this ResumableCheckpoint"):
        checkpoint.resume(net, X, Y)
    net = make_net(checkpoint, Stop())
    with pytest.raises(FileNotFoundError, match=r"run\.pt"):
        checkpoint.resume(net, X, Y)
    trained(checkpoint, max_epochs=1)
    net.set_params(module="EEGNeX")
    with pytest.raises(ValueError, match="The checkpoint's module_ does not fit that"):
        checkpoint.resume(net, X, Y, changed="ignore")
    torch.save({"weights": 1}, tmp_path / "run.pt")
    with pytest.raises(ValueError, match="was written by other software or by an old"):
        checkpoint.resume(net, X, Y)
    with pytest.raises(FileNotFoundError, match=r"none' is none; got"):
        make_net(ResumableCheckpoint(tmp_path / "none" / "run.pt"), Stop()).initialize()


# The training to which a checkpoint belongs


@pytest.fixture
def interrupted(tmp_path):
    """Return a training that failed in its third epoch."""
    checkpoint = ResumableCheckpoint(tmp_path / "failed.pt")
    net = make_net(checkpoint, Stop(3, fail))
    with pytest.raises(RuntimeError, match="power cut"):
        net.fit(X, Y)
    return tmp_path / "failed.pt"


def resume(file, params=None, cls=SAM, data=(X, Y), **options):
    checkpoint = ResumableCheckpoint(file)
    net = make_net(checkpoint, Stop(), cls)
    net.set_params(**(params or {}))
    return checkpoint.resume(net, *data, **options)


def relabelled(y):
    y = y.copy()
    y[1] += 1
    return y


OTHER = {
    "rho": ({"params": {"optimizer__rho": 0.5}}, "optimizer__rho was 0.1, is 0.5"),
    "lr": ({"params": {"lr": 0.5}}, "lr was 0.01, is 0.5"),
    "a callback": (
        {"params": {"callbacks__sam__schedule": "linear"}},
        "callbacks__sam__schedule was 'cosine', is 'linear'",
    ),
    "optimizer": ({"cls": LookSAM}, "optimizer was .*SAM, is .*LookSAM"),
    "base": (
        {"params": {"optimizer__base_optimizer": torch.optim.SGD}},
        "optimizer__base_optimizer was not set, is torch.optim.sgd.SGD",
    ),
    "augmentation": (
        {"params": {"iterator_train__transforms": []}},
        r"iterator_train__transforms was \[TimeShift.*, is \[\]",
    ),
    "a base's own option": (
        {"params": {"optimizer__base_optimizer": partial(torch.optim.SGD, lr=0.1)}},
        r"is partial\[torch.optim.sgd.SGD, {lr: 0.1}\]",
    ),
    "subjects": (
        {"data": (SubjectWindows(np.asarray(X), X.groups[::-1]), Y)},
        "groups was values",
    ),
    "one target": ({"data": (X, relabelled(Y))}, "y was shape"),
    "targets": ({"data": (X, Y + 1)}, r"y was shape \(36, 1\), values .*, is shape"),
    "windows": ({"data": (np.asarray(X) + 1, Y)}, "X was shape"),
    "fewer": ({"data": (X[:30], Y[:30])}, r"X was shape \(36.*, is shape \(30"),
}


@pytest.mark.filterwarnings("ignore:.*SubjectSplit:UserWarning")
@pytest.mark.parametrize(("options", "match"), OTHER.values(), ids=OTHER)
def test_settings_and_data_that_have_changed_are_named(options, match, interrupted):
    before = interrupted.read_bytes()
    with pytest.raises(ValueError, match=rf"is of another training: .*{match}"):
        resume(interrupted, **options)
    assert interrupted.read_bytes() == before


def test_some_settings_may_change(interrupted):
    params = {"max_epochs": 4, "iterator_valid__num_workers": 0}
    assert len(resume(interrupted, params).history) == 4


def test_changed_settings_take_effect_if_ignored(interrupted):
    params = {"optimizer__weight_decay": 0.3, "optimizer__interval": 2}
    net = resume(interrupted, params, changed="ignore")
    assert net.optimizer_.param_groups[0]["weight_decay"] == 0.3
    assert net.optimizer_.interval == 2
    assert len(net.history) == 5


@pytest.mark.parametrize(
    "options",
    [{"cls": LookSAM}, {"params": {"optimizer__base_optimizer": torch.optim.Adamax}}],
    ids=["LookSAM", "Adamax"],
)
def test_another_optimizer_starts_without_a_state_if_ignored(options, interrupted):
    whole = trained(ResumableCheckpoint(interrupted.with_name("whole.pt")))
    net = resume(interrupted, changed="ignore", **options)
    assert len(net.history) == 5
    assert net.optimizer_.n_steps < whole.optimizer_.n_steps


def test_changed_options_of_groups_take_effect_if_ignored(tmp_path):
    def net(bias_rho, **options):
        return EEGClassifier(
            "FastEEGNeX", optimizer=SAM, max_epochs=2, batch_size=6, verbose=0,
            optimizer__param_groups=[("*bias", {"rho": bias_rho})],
            train_split=None, callbacks=[checkpoint], **options,
        )  # fmt: skip

    labels, windows = (Y > 0).astype(int), np.asarray(X)
    checkpoint = ResumableCheckpoint(tmp_path / "run.pt")
    net(0.0, optimizer__rho=0.5, lr=0.1).fit(windows, labels)
    other = net(0.3, lr=0.1)  # the radius of the rest is the default again
    checkpoint.resume(other, windows, labels, changed="ignore")
    found = [(g["rho"], g["lr"]) for g in other.optimizer_.param_groups]
    assert found == [(0.3, 0.1), (0.05, 0.1)]


def test_a_training_that_continued_in_partial_fit_keeps_its_options(tmp_path):
    checkpoint = ResumableCheckpoint(tmp_path / "run.pt")
    net = make_net(checkpoint, Stop(), max_epochs=2)
    net.fit(X, Y)
    net.partial_fit(X, Y[:, None])
    again = make_net(ResumableCheckpoint(tmp_path / "run.pt"), Stop(), max_epochs=2)
    dict(again.callbacks)["checkpoint"].resume(again, X, Y)
    ours, theirs = (n.optimizer_.param_groups[0] for n in (again, net))
    assert {k: v for k, v in ours.items() if k != "params"} == {
        k: v for k, v in theirs.items() if k != "params"
    }


def test_callbacks_get_their_own_state_in_any_order(interrupted):
    checkpoint = ResumableCheckpoint(interrupted)
    net = make_net(checkpoint, Stop())
    net.callbacks[3:] = net.callbacks[:2:-1]
    checkpoint.resume(net, X, Y)
    assert len(net.history) == 5
    assert dict(net.callbacks_)["early"].dynamic_threshold_ is not None


def test_new_callbacks_start_without_a_state_if_ignored(interrupted):
    checkpoint = ResumableCheckpoint(interrupted)
    net = make_net(checkpoint, Stop())
    net.set_params(iterator_train__transforms=[])
    net.callbacks[-1] = ("early", Checkpoint(dirname=interrupted.parent / "best"))
    with pytest.raises(ValueError, match=r"callbacks__early was .*, is 'Checkpoint'"):
        checkpoint.resume(net, X, Y)
    checkpoint.resume(net, X, Y, changed="ignore")
    assert len(net.history) == 5


def test_reading_the_data_draws_no_numbers():
    class Random(torch.utils.data.Dataset):
        def __len__(self):
            return 5

        def __getitem__(self, i):
            return torch.randn(3), np.random.rand()

    torch.manual_seed(0)
    np.random.seed(0)
    told = data_of(Random(), None)
    drawn = torch.rand(1), np.random.rand()
    torch.manual_seed(0)
    np.random.seed(0)
    assert told == {"X": "shape (5,), values random"}
    assert drawn == (torch.rand(1), np.random.rand())


@pytest.mark.parametrize("kind", [np.asarray, torch.tensor])
def test_weights_among_the_settings_are_distinguished(kind):
    told = {described(kind(values)) for values in ([1.0, 2.0], [1.0, 3.0], [1.0])}
    assert len(told) == 3
    assert described(kind(0.5)) == "0.5"


def test_refuses_changed(tmp_path):
    checkpoint = ResumableCheckpoint(tmp_path / "a.pt")
    with pytest.raises(ValueError, match="changed must be one of 'raise', 'ignore'"):
        checkpoint.resume(make_net(checkpoint, Stop()), X, Y, changed="maybe")


@pytest.mark.parametrize(("every", "error"), [(0, ValueError), ("1", TypeError)])
def test_refuses_every(every, error):
    with pytest.raises(error, match=f"every must be an integer >= 1, got {every!r}"):
        ResumableCheckpoint(every=every).initialize()
