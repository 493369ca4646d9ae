"""Trainings that are killed and go on, and files that are cut short."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from braindecode import EEGClassifier

from braindecode_sam import SAM
from braindecode_sam.callbacks import ResumableCheckpoint, SeedCallback
from braindecode_sam.callbacks.checkpoint import read_checkpoint
from tests.killed_training import Stop, X, Y, make_net
from tests.optim.helpers import FAMILY, assert_same

pytestmark = pytest.mark.slow


def trained(checkpoint, cls=SAM, **options):
    net = make_net(checkpoint, Stop(), cls, **options)
    net.fit(X, Y)
    return net


def rows(net):
    """The history but for what time it took, which is never the same."""
    rows = [{k: v for k, v in row.items() if k != "dur"} for row in net.history]
    return json.dumps(rows)


def assert_same_training(first, second):
    assert bool(rows(first) == rows(second))  # without pytest's long story
    assert_same(first.module_.state_dict(), second.module_.state_dict())
    states = [repr(net.optimizer_.state_dict()) for net in (first, second)]
    assert states[0] == states[1]
    generators = [net.iterator_train__transforms[0].rng for net in (first, second)]
    assert generators[0].randint(1 << 30) == generators[1].randint(1 << 30)


def fail():
    raise RuntimeError("power cut")


def test_goes_on_after_sigkill_bit_for_bit(tmp_path, tried):
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
def test_goes_on_after_a_failure_bit_for_bit(cls, epoch, tmp_path, tried):
    whole = trained(ResumableCheckpoint(tmp_path / "whole.pt"), cls)
    checkpoint = ResumableCheckpoint(tmp_path / "failed.pt")
    with pytest.raises(RuntimeError, match="power cut"):
        make_net(checkpoint, Stop(epoch, fail), cls).fit(X, Y)
    torch.manual_seed(99)
    np.random.seed(99)
    resumed = checkpoint.resume(make_net(checkpoint, Stop(), cls), X, Y)
    assert_same_training(whole, resumed)
    tried["trainings killed and resumed"] += 1


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
    again = checkpoint.resume(make_net(checkpoint, Stop(), max_epochs=30), X, Y)
    assert len(again.history) == n_epochs
    assert_same(net.module_.state_dict(), again.module_.state_dict())
    assert checkpoint.exists()


def test_a_finished_training_goes_on_for_more_epochs(tmp_path):
    """With a metric that draws from the generators, for a classifier."""

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
def test_a_file_cut_short_is_refused_with_its_name(kept, tmp_path, tried):
    file = tmp_path / "cut.pt"
    checkpoint = ResumableCheckpoint(file)
    trained(checkpoint, max_epochs=1)
    content = file.read_bytes()
    file.write_bytes(content[: int(kept * len(content))])
    net = make_net(checkpoint, Stop())
    with pytest.raises(ValueError, match=r"cut\.pt' is not a whole checkpoint"):
        checkpoint.resume(net, X, Y)
    tried["checkpoints cut short"] += 1


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
    with pytest.raises(ValueError, match="does not hold this ResumableCheckpoint"):
        checkpoint.resume(net, X, Y)
    net = make_net(checkpoint, Stop())
    with pytest.raises(FileNotFoundError, match=r"run\.pt"):
        checkpoint.resume(net, X, Y)
    trained(checkpoint, max_epochs=1)
    net.callbacks.pop()
    with pytest.raises(ValueError, match="expected the net that wrote it"):
        checkpoint.resume(net, X, Y)


@pytest.mark.parametrize(("every", "error"), [(0, ValueError), ("1", TypeError)])
def test_refuses_every(every, error):
    with pytest.raises(error, match=f"every must be an integer >= 1, got {every!r}"):
        ResumableCheckpoint(every=every).initialize()
