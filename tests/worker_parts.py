"""Helpers that worker processes import."""

import os
from pathlib import Path

import numpy as np
from braindecode import EEGRegressor
from braindecode.augmentation import AugmentedDataLoader, GaussianNoise
from skorch.callbacks import Callback

from braindecode_sam import SAM, TimeShift
from braindecode_sam.callbacks import SeedCallback
from braindecode_sam.datasets import SubjectWindows

RNG = np.random.default_rng(0)
SUBJECTS = np.repeat(np.arange(10), 8)
X = RNG.normal(size=(80, 4, 150)).astype(np.float32)
Y = RNG.normal(size=80).astype(np.float32)


class CountedWindows(SubjectWindows):
    """Record the process that receives it."""

    def __init__(self, X, groups, file):
        super().__init__(X, groups)
        self.file = file

    def __setstate__(self, state):
        self.__dict__.update(state)
        note(self.file)


class Noted(Callback):
    """Record the process in which training begins."""

    def __init__(self, file=None):
        self.file = file

    def on_train_begin(self, net, X=None, y=None, **kwargs):
        if self.file is not None:
            note(self.file)


def note(file):
    with open(file, "a") as lines:
        lines.write(f"{os.getpid()}\n")


def noted(file):
    return Path(file).read_text().split() if Path(file).exists() else []


def make_net(file=None, **options):
    defaults = {
        "optimizer__rho": 0.1,
        "max_epochs": 2,
        "iterator_train": AugmentedDataLoader,
        "iterator_train__transforms": [TimeShift(0.5), GaussianNoise(0.5, std=0.1)],
        "callbacks": [("seed", SeedCallback(3, n_threads=1)), ("noted", Noted(file))],
        "train_split": None,
    }
    defaults |= {"batch_size": 8, "verbose": 0}
    return EEGRegressor("FastEEGNeX", optimizer=SAM, **(defaults | options))
