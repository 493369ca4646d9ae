"""The callback speeds up the module of any net, and changes nothing else."""

import copy
import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone

from braindecode_sam import SAM, SAMCallback
from braindecode_sam.callbacks import SpeedUp
from braindecode_sam.nets import Classifier
from tests.models.helpers import maps

pytestmark = pytest.mark.filterwarnings("ignore:.*for the current model parameters")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(8, 6, 250)).astype(np.float32)
Y = np.tile([0, 1], 4)
BATCH = torch.from_numpy(X)


def fitted(*callbacks, module="EEGNeX"):
    net = Classifier(
        module, optimizer=SAM, max_epochs=2, batch_size=4, verbose=0, train_split=None,
        module__drop_prob=0.0, callbacks=[*callbacks, SAMCallback()], random_state=0,
        n_threads=1,
    )  # fmt: skip
    net.fit(X, Y)
    return net


def types_of(net):
    return [type(module).__name__ for module in net.module_.modules()]


def test_a_net_trains_the_same_and_faster_and_is_copied_and_cloned():
    stock, fast = fitted(), fitted(SpeedUp())
    assert len(maps(stock.module_, BATCH)) > len(maps(fast.module_, BATCH)) == 0
    losses = fast.history[:, "train_loss"]
    assert losses == pytest.approx(stock.history[:, "train_loss"], rel=1e-3)
    for again in (pickle.loads(pickle.dumps(fast)), copy.deepcopy(fast)):
        assert types_of(again) == types_of(fast)
        np.testing.assert_array_equal(again.predict_proba(X), fast.predict_proba(X))
        again.partial_fit(X, Y)
    again = clone(fast).set_params(max_epochs=1)
    again.fit(X, Y)
    assert types_of(again) == types_of(fast)


class Linear(torch.nn.Sequential):
    def __init__(self, n_chans, n_times, n_outputs, drop_prob):
        flat = torch.nn.Flatten(), torch.nn.Linear(n_chans * n_times, n_outputs)
        super().__init__(*flat)


def test_a_module_that_cannot_profit_stays_unchanged(capsys):
    net = fitted(SpeedUp(verbose=True), module=Linear)
    assert types_of(net) == types_of(fitted(module=Linear))
    assert "No layer gets faster." in capsys.readouterr().out


def test_masks_are_those_that_were_asked_for():
    layers = fitted(SpeedUp(exact_masks=False)).module_.modules()
    dropouts = [layer for layer in layers if isinstance(layer, torch.nn.Dropout)]
    x = torch.ones(64, 6, 250)
    for layer in dropouts:
        layer.p = 0.5
        torch.manual_seed(0)
        found = layer.train()(x)
        torch.manual_seed(0)
        assert not torch.equal(found, torch.nn.functional.dropout(x))
