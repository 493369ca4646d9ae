"""The callback speeds up the module of any net, and changes nothing else."""

import copy
import pickle

import numpy as np
import pytest
import torch
from braindecode import EEGClassifier, EEGRegressor
from sklearn.base import clone
from sklearn.model_selection import cross_val_score

from braindecode_sam import SAM, SAMCallback
from braindecode_sam.callbacks import SpeedUp
from braindecode_sam.models.speed_up import WaitingConv2d

pytestmark = pytest.mark.filterwarnings("ignore:.*for the current model parameters")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(16, 6, 250)).astype(np.float32)
Y = np.tile([0, 1], 8)


def make_net(cls=EEGClassifier, module="EEGNeX", callbacks=(), **options):
    return cls(
        module, optimizer=SAM, max_epochs=2, batch_size=4, verbose=0, train_split=None,
        module__drop_prob=0.0, callbacks=[*callbacks, SAMCallback()], **options,
    )  # fmt: skip


def waiting(net):
    return [m for m in net.module_.modules() if isinstance(m, WaitingConv2d)]


def fit(net, y=Y):
    torch.manual_seed(0)
    net.fit(X, y)
    return net


@pytest.mark.parametrize("cls", [EEGClassifier, EEGRegressor])
def test_a_net_trains_the_same_and_faster(cls):
    y = Y if cls is EEGClassifier else Y.astype(np.float32)
    stock, fast = fit(make_net(cls), y), fit(make_net(cls, callbacks=[SpeedUp()]), y)
    assert not waiting(stock)
    assert len(waiting(fast)) == 1
    for one, other in zip(stock.history, fast.history, strict=True):
        assert other["train_loss"] == pytest.approx(one["train_loss"], rel=1e-3)


def test_a_module_that_cannot_profit_stays_unchanged(capsys):
    net = fit(make_net(module="ShallowFBCSPNet", callbacks=[SpeedUp(verbose=True)]))
    assert not waiting(net)
    assert "No layer gets faster." in capsys.readouterr().out


@pytest.mark.slow
def test_nets_with_it_are_copied_cloned_and_cross_validated():
    net = fit(make_net(callbacks=[SpeedUp()]))
    for again in (pickle.loads(pickle.dumps(net)), copy.deepcopy(net)):
        assert len(waiting(again)) == 1
        np.testing.assert_array_equal(again.predict_proba(X), net.predict_proba(X))
        again.partial_fit(X, Y)
    scores = cross_val_score(clone(net), X, Y, cv=2, n_jobs=2, error_score="raise")
    assert np.isfinite(scores).all()
