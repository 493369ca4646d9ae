"""Different settings have different descriptions, and equal ones the same."""

import functools
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from braindecode.augmentation import ChannelsSymmetry, Compose
from sklearn.model_selection import KFold, PredefinedSplit
from skorch.callbacks import Freezer, LRScheduler
from torch.optim.lr_scheduler import LambdaLR, StepLR

from braindecode_sam import TimeShift
from braindecode_sam.callbacks._fingerprint import described
from braindecode_sam.model_selection import PredefinedSubjectSplit


def scaled_by(factor):
    return lambda X: X * factor


class Holder:
    def __init__(self, held):
        self.held = held

    def method(self):
        return self.held


def linear(n, bias=False):
    torch.manual_seed(0)
    return torch.nn.Linear(3, n, bias=bias)


def two_seeds():
    return [torch.manual_seed(s) and torch.nn.Linear(3, 2) for s in (0, 1)]


def shifts(*sizes):
    return Compose([TimeShift(0.5, max_shift=s) for s in sizes])


LINKED, CROSSED = ["C3", "C4", "O1", "O2"], ["C3", "O1", "C4", "O2"]


def local_class(factor):
    class Scaled(torch.nn.Module):
        def forward(self, x):
            return factor * x

        @property
        def factor(self):
            return factor

    return Scaled


def other_class(factor):
    class Scaled(torch.nn.Module):
        def forward(self, x):
            return factor + x

    Scaled.__qualname__ = local_class(1).__qualname__
    return Scaled


PAIRS = {
    "lambdas": (lambda X: X, lambda X: X * 0),
    "constants of inner functions": (
        lambda X: [x for x in X if x in {"a", "b"}],
        lambda X: [x for x in X if x in {"a", "c"}],
    ),
    "closures": (scaled_by(1), scaled_by(2)),
    "partial": (functools.partial(max, 1), functools.partial(max, 2)),
    "methods": (Holder(1).method, Holder(2).method),
    "ranges": (range(1, 3), range(1, 4)),
    "slices": (slice(1, 3), slice(1, 4)),
    "sets": ({"a", "b"}, {"a", "c"}),
    "series": (pd.Series([1.0, 2.0]), pd.Series([1.0, 3.0])),
    "empty": (np.array([]), np.array([0.0])),
    "splits": (PredefinedSplit([0, 0, 1]), PredefinedSplit([0, 1, 1])),
    "subjects": (PredefinedSubjectSplit(["a"]), PredefinedSubjectSplit(["b", "c"])),
    "folds": (KFold(3), KFold(4)),
    "sizes of modules": (linear(2), linear(3)),
    "weights of modules": tuple(two_seeds()),
    "losses": tuple(
        torch.nn.CrossEntropyLoss(weight=torch.tensor([1.0, w])) for w in (1, 2)
    ),
    "schedules": tuple(LRScheduler(LambdaLR, lr_lambda=scaled_by(i)) for i in (1, 2)),
    "policies": (LRScheduler(StepLR, step_size=1), LRScheduler(LambdaLR, step_size=1)),
    "freezers": tuple(Freezer(f) for f in (lambda n: n == "a", lambda n: n == "b")),
    "transforms": (shifts(0.1, 0.2), shifts(0.2, 0.1)),
    "symmetry": tuple(ChannelsSymmetry(0.5, order) for order in (LINKED, CROSSED)),
    "local classes": (local_class(1), local_class(2)),
    "code of classes": (local_class(1), other_class(1)),
    "objects in objects": (Holder([Holder({"x": 1})]), Holder([Holder({"x": 2})])),
}


@pytest.mark.parametrize("name", PAIRS)
def test_different_settings_are_distinguished(name):
    first, second = PAIRS[name]
    assert described(first) != described(second)
    assert described(first) == described(first)


def test_recursive_objects_are_described():
    holder = Holder(1)
    holder.held = [holder]
    assert described(holder) == "Holder{held: [Holder]}"
    assert "Logger" in described(Holder(logging.getLogger("braindecode_sam")))


def test_drawn_random_numbers_do_not_matter():
    shift = TimeShift(0.5, max_shift=0.1, random_state=0)
    before = described(shift)
    shift.rng.randint(9)
    assert described(shift) == before


def test_another_process_gives_the_same_description():
    script = (
        "from tests.callbacks.test_fingerprint import *;"
        "print([[described(v) for v in pair] for pair in PAIRS.values()])"
    )
    command = [sys.executable, "-W", "ignore", "-c", script]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    here = [[described(v) for v in pair] for pair in PAIRS.values()]
    assert done.stdout.splitlines()[-1] == str(here)
