"""Training that a test may kill: python -m tests.killed_training CHECKPOINT EPOCH."""

import os
import signal
import sys

import numpy as np
import torch
from braindecode import EEGRegressor
from braindecode.augmentation import AugmentedDataLoader, GaussianNoise
from skorch.callbacks import Callback, EarlyStopping, LRScheduler

from braindecode_sam import SAM, SAMCallback, TimeShift
from braindecode_sam.callbacks import ResumableCheckpoint, SeedCallback
from braindecode_sam.datasets import SubjectWindows
from braindecode_sam.model_selection import SubjectSplit

RNG = np.random.default_rng(0)
SUBJECTS = np.repeat(np.arange(6), 6)
X = SubjectWindows(RNG.normal(size=(36, 4, 120)).astype(np.float32), SUBJECTS)
Y = RNG.normal(size=36).astype(np.float32)


class Stop(Callback):
    """Call something in the second batch of an epoch."""

    def __init__(self, epoch=None, action=None):
        self.epoch = epoch
        self.action = action

    def get_params(self, deep=True):
        return {}  # no part of the training

    def on_batch_begin(self, net, batch=None, training=False, **kwargs):
        if (
            training
            and len(net.history) == self.epoch
            and net.history[-1]["batches"][1:]
        ):
            self.action()


def make_net(checkpoint, stop, cls=SAM, max_epochs=5):
    one_cycle = torch.optim.lr_scheduler.OneCycleLR
    schedule = LRScheduler(one_cycle, max_lr=0.01, total_steps=99, step_every="batch")
    return EEGRegressor(
        "FastEEGNet",
        optimizer=cls,
        optimizer__rho=0.1,
        max_epochs=max_epochs,
        batch_size=6,
        iterator_train=AugmentedDataLoader,
        iterator_train__transforms=[
            TimeShift(0.5, max_shift=0.1, random_state=3),  # has its own generator
            GaussianNoise(0.5, std=0.01),  # NumPy's global one
        ],
        iterator_train__generator=torch.Generator().manual_seed(4),
        train_split=SubjectSplit(0.3),  # also NumPy's
        verbose=0,
        callbacks=[
            ("seed", SeedCallback(1, n_threads=1)),
            ("schedule", schedule),
            ("checkpoint", checkpoint),
            ("stop", stop),
            ("sam", SAMCallback(schedule="cosine")),
            (
                "early",
                EarlyStopping(patience=3, load_best=True, sink=lambda text: None),
            ),
        ],
    )


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    make_net(ResumableCheckpoint(sys.argv[1]), Stop(int(sys.argv[2]), kill)).fit(X, Y)
