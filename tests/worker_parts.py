"""Nets, data and callbacks of several tests, which workers can import."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import torch
from braindecode.augmentation import AugmentedDataLoader, GaussianNoise
from skorch.callbacks import Callback, EarlyStopping, LRScheduler
from torch.nn.utils import parametrize

from braindecode_sam import SAM, SAMCallback, TimeShift
from braindecode_sam.callbacks import ResumableCheckpoint
from braindecode_sam.datasets import SubjectWindows
from braindecode_sam.model_selection import SubjectSplit
from braindecode_sam.nets import Regressor
from tests.optim.helpers import assert_same

RNG = np.random.default_rng(0)
SUBJECTS = np.repeat(np.arange(6), 6)
X = SubjectWindows(RNG.normal(size=(36, 4, 64)).astype(np.float32), SUBJECTS)
Y = RNG.normal(size=36).astype(np.float32)


class MaxNorm(torch.nn.Module):
    def forward(self, weight):
        return torch.renorm(weight, 2, 0, 0.5)


class Small(torch.nn.Module):
    """Has BatchNorm, dropout, and constrained, shared and frozen weights."""

    def __init__(self, n_chans, n_times, n_outputs, **settings):
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


def make_net(*callbacks, module=Small, cls=Regressor, **options):
    defaults = {
        "optimizer": SAM, "lr": 0.01, "max_epochs": 2, "batch_size": 6,
        "train_split": None, "verbose": 0, "random_state": 1, "n_threads": 1,
    }  # fmt: skip
    return cls(module, callbacks=list(callbacks), **(defaults | options))


def augmentation():
    """Options of a net that draws from all kinds of generators."""
    return {
        "iterator_train": AugmentedDataLoader,
        "iterator_train__transforms": [
            TimeShift(0.5, max_shift=0.1, random_state=3),  # has its own generator
            GaussianNoise(0.5, std=0.01),  # NumPy's global one
        ],
    }


def note(file):
    with open(file, "a") as lines:
        lines.write(f"{os.getpid()}\n")


def noted(file):
    return Path(file).read_text().split() if Path(file).exists() else []


class CountedWindows(SubjectWindows):
    """Record the process that receives it."""

    def __init__(self, X, groups, file):
        super().__init__(X, groups)
        self.file = file

    def __setstate__(self, state):
        self.__dict__.update(state)
        note(self.file)

    def __dask_tokenize__(self):
        return str(self.file)  # otherwise Dask pickles it for that


class Noted(Callback):
    """Record the process in which training begins."""

    def __init__(self, file):
        self.file = file

    def on_train_begin(self, net, X=None, y=None, **kwargs):
        note(self.file)


class Doomed(Noted):
    """Kill the process in which the second training begins."""

    def on_train_begin(self, net, X=None, y=None, **kwargs):
        note(self.file)
        if noted(self.file)[1:] == [str(os.getpid())]:
            os.kill(os.getpid(), signal.SIGKILL)


class Stop(Callback):
    """Call something once in an epoch, before its second batch or its validation."""

    def __init__(self, epoch=None, action=None, in_validation=False):
        self.epoch, self.action, self.in_validation = epoch, action, in_validation

    def get_params(self, deep=True):
        return {}  # no part of the training

    def on_batch_begin(self, net, batch=None, training=False, **kwargs):
        is_there = net.history[-1]["batches"][1:] and training != self.in_validation
        if is_there and len(net.history) == self.epoch:
            self.epoch = None
            self.action()


def fail(error=RuntimeError):
    raise error("power cut")


def interrupt():
    fail(KeyboardInterrupt)  # which skorch catches


def scaled_by(factor):
    return lambda X: X * factor


def local_class(operation):
    class Local:
        apply = staticmethod(operation)

        @property
        def applied(self):
            return operation

    return Local


def one_cycle():
    options = {"max_lr": 0.01, "total_steps": 99, "step_every": "batch"}
    return LRScheduler(torch.optim.lr_scheduler.OneCycleLR, **options)


def resumable_net(checkpoint, stop=None, **options):
    """Return a net with everything that a checkpoint has to keep."""
    # What must have the same description in another process.
    chosen = local_class(lambda x: x in {"a", "b", "c", "d", "e", "f"})
    settings = [scaled_by(2), set("abcdef"), chosen]
    return make_net(
        ("schedule", one_cycle()),
        ("checkpoint", checkpoint),
        ("stop", stop or Stop()),
        ("sam", SAMCallback(schedule="cosine")),
        ("early", EarlyStopping(patience=3, load_best=True, sink=lambda text: None)),
        module__settings=settings,
        **{
            "optimizer__rho": 0.1, "max_epochs": 4, **augmentation(),
            "iterator_train__generator": torch.Generator().manual_seed(4),
            "train_split": SubjectSplit(0.3),  # also NumPy's generator
            **options,
        },
    )  # fmt: skip


def state_of(net):
    return {name: value.clone() for name, value in net.module_.state_dict().items()}


def is_same(first, second):
    """Whether the second dict, which may hold more, has the tensors of the first."""
    return all(torch.equal(value, second[name]) for name, value in first.items())


def assert_same_training(first, second):
    # Without durations, which always differ, and without pytest's long diffs.
    nets = (first, second)
    rows = [[{**row, "dur": None} for row in net.history] for net in nets]
    assert bool(json.dumps(rows[0]) == json.dumps(rows[1]))
    assert_same(first.module_.state_dict(), second.module_.state_dict())
    states = [repr(net.optimizer_.state_dict()) for net in nets]
    assert bool(states[0] == states[1])


def train_until_killed(file, epoch):
    stop = Stop(epoch, lambda: os.kill(os.getpid(), signal.SIGKILL))
    resumable_net(ResumableCheckpoint(file), stop).fit(X, Y)
