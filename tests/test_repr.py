"""Reprs show parameters. MOABB tells pipelines apart by them."""

import re

import numpy as np
import pytest
import torch
from braindecode import EEGRegressor
from braindecode.augmentation import (
    AmplitudeScale,
    ChannelsDropout,
    MaskEncoding,
)
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from skorch.callbacks import Checkpoint, EarlyStopping, LRScheduler

from braindecode_sam import SAMCallback, TimeShift
from braindecode_sam.augmentation import AugmentedDataLoader, GaussianNoise
from braindecode_sam.callbacks import (
    ResumableCheckpoint,
    SpeedUp,
    WeightAveraging,
    WeightSnapshots,
    WindowCheck,
)
from braindecode_sam.nets import Regressor
from tests.tiny import Linear

CALLBACKS = [
    (WeightAveraging("ema"), WeightAveraging("swa", start=3), "kind='swa', start=3"),
    (SAMCallback(), SAMCallback(0.2, schedule="cosine"), "rho=0.2, schedule='cosine'"),
    (ResumableCheckpoint("a.pt"), ResumableCheckpoint("b.pt"), "f_checkpoint='b.pt'"),
    (SpeedUp(), SpeedUp(exact_masks=False), "exact_masks=False"),
    (WindowCheck(), WeightSnapshots(), ""),
]
TRANSFORMS = [
    (TimeShift(0.5), TimeShift(0.5, max_shift=0.2), "probability=0.5, max_shift=0.2"),
    (GaussianNoise(0.5), GaussianNoise(0.5, 0.3), "probability=0.5, std=0.3"),
    (
        GaussianNoise(1.0, np.full((1500, 1), 1.0)),
        GaussianNoise(1.0, np.r_[np.full(1499, 1.0), 1.0000000001][:, None]),
        "[1.0000000001]]",
    ),
]


@pytest.mark.parametrize(("first", "second", "shown"), CALLBACKS + TRANSFORMS)
def test_the_parameters_are_shown(first, second, shown):
    reprs = []
    for part in (first, second):
        if hasattr(part, "on_train_begin"):
            net = EEGRegressor("EEGNeX", callbacks=[("part", part)])
            assert repr(clone(part)) == repr(part)
            assert repr(part) in repr(make_pipeline(net))
        else:
            options = {"iterator_train__transforms": [part]}
            net = EEGRegressor("EEGNeX", iterator_train=AugmentedDataLoader, **options)
        params = repr(net.get_params())
        assert repr(part) in params
        # MOABB leaves out addresses.
        reprs.append(re.sub("0x[a-z0-9]*", "0x__", params))
    assert shown in repr(second)
    assert reprs[0] != reprs[1]


COSINE = torch.optim.lr_scheduler.CosineAnnealingLR
PARTS_OF_OTHERS = [
    (EarlyStopping(), EarlyStopping(patience=3), "patience: 3"),
    (LRScheduler(COSINE, T_max=2), LRScheduler(COSINE, T_max=3), "T_max: 3"),
    (Checkpoint(), Checkpoint(f_history=None), "f_history: None"),
    (ChannelsDropout(0.5), ChannelsDropout(0.5, 0.3), "p_drop: 0.3"),
    # Some keep a parameter under another name, or a part of it.
    (AmplitudeScale(0.5), AmplitudeScale(0.5, interval=(0.9, 1.1)), "[0.9, 1.1]"),
    (MaskEncoding(0.5), MaskEncoding(0.5, max_mask_ratio=0.3), "mask_ratio: 0.3"),
    (ChannelsDropout(0.5), ChannelsDropout(0.6), "probability: 0.6"),
]


@pytest.mark.parametrize(("first", "second", "shown"), PARTS_OF_OTHERS)
def test_nets_show_the_parameters_of_parts_without_a_repr(first, second, shown):
    name = "callbacks"
    if isinstance(first, torch.nn.Module):
        name = "iterator_train__transforms"
    reprs = [repr(Regressor(Linear, **{name: [part]})) for part in (first, second)]
    assert shown in reprs[1]
    assert shown not in reprs[0]
    assert " at 0x" not in "".join(reprs)


def test_training_does_not_change_the_repr_of_a_net():
    stop = EarlyStopping(monitor="train_loss", patience=1, load_best=True)
    net = Regressor(
        Linear, max_epochs=2, train_split=None, verbose=0, callbacks=[("stop", stop)],
        iterator_train__drop_last=False,
    )  # fmt: skip
    before = repr(net)
    net.fit(np.random.default_rng(0).normal(size=(8, 2, 5)), np.arange(8.0))
    assert repr(net) == before


def test_the_text_of_all_parameters_is_the_same_in_every_process():
    net = Regressor(Linear, optimizer__lr=0.1, optimizer__eps=1e-6)
    for one in (net, clone(net), clone(net).set_params(module__bias=True)):
        # The order of a set of text differs between processes.
        assert not any(isinstance(value, set) for value in one.get_params().values())
    # skorch still knows what to check.
    shape = {"module__n_chans": 2, "module__n_times": 5, "module__n_outputs": 1}
    with pytest.raises(ValueError, match=r"unexpected argument.*lrate"):
        clone(Regressor(Linear, lrate=0.1, **shape)).initialize()
