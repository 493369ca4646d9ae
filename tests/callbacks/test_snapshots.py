"""The weights kept after each epoch are those with which the net predicts."""

import pickle

import numpy as np
import pytest
import torch
from braindecode import EEGRegressor
from skorch.callbacks import Callback

from braindecode_sam import SAM
from braindecode_sam.callbacks import SeedCallback, WeightAveraging, WeightSnapshots

RNG = np.random.default_rng(0)
X = RNG.normal(size=(16, 3, 64)).astype(np.float32)
Y = RNG.normal(size=16).astype(np.float32)


class Predictions(Callback):
    """Predict at the end of each epoch, as the last of the callbacks."""

    def initialize(self):
        self.found_ = []
        return self

    def on_epoch_end(self, net, **kwargs):
        self.found_.append(net.predict(X))


def fitted(module="FastEEGNet", *callbacks, **options):
    net = EEGRegressor(
        module,
        optimizer=SAM,
        max_epochs=3,
        batch_size=8,
        verbose=0,
        train_split=None,
        callbacks=[("seed", SeedCallback(0)), *callbacks],
        **options,
    )
    net.fit(X, Y)
    return net


@pytest.mark.parametrize("module", ["FastEEGNet", "EEGNeX"])
@pytest.mark.parametrize("averages", [False, True])
def test_each_epoch_predicts_as_it_did(module, averages):
    averaging = [("averaging", WeightAveraging("ema", decay=0.5))] * averages
    kept = [("snapshots", WeightSnapshots()), ("predictions", Predictions())]
    net = fitted(module, *averaging, *kept)
    callbacks = dict(net.callbacks_)
    final = net.predict(X)
    found = list(callbacks["snapshots"].predict_by_epoch(net, net.predict, X))
    np.testing.assert_array_equal(found, callbacks["predictions"].found_)
    np.testing.assert_array_equal(net.predict(X), final)
    assert not np.array_equal(found[0], found[1])


def test_training_does_not_depend_on_it():
    with_it = fitted("FastEEGNet", ("snapshots", WeightSnapshots()))
    np.testing.assert_array_equal(with_it.predict(X), fitted().predict(X))


def test_weights_are_restored_if_predicting_fails():
    net = fitted("FastEEGNet", ("snapshots", WeightSnapshots()))
    final = net.predict(X)

    def fail(X):
        raise RuntimeError("out of luck")

    snapshots = dict(net.callbacks_)["snapshots"]
    with pytest.raises(RuntimeError, match="out of luck"):
        next(snapshots.predict_by_epoch(net, fail, X))
    np.testing.assert_array_equal(net.predict(X), final)
    halves = [snapshots.predict_by_epoch(net, net.predict, part) for part in (X, X)]
    for first, second in zip(*halves, strict=True):
        np.testing.assert_array_equal(first, second)
        np.testing.assert_array_equal(net.predict(X), final)


def test_a_second_fit_and_a_pickle_keep_their_own():
    net = fitted("FastEEGNet", ("snapshots", WeightSnapshots()))
    net.fit(X, Y)
    snapshots = dict(net.callbacks_)["snapshots"]
    assert len(snapshots.weights_) == 3
    assert all(
        t.device == torch.device("cpu")
        for t in snapshots.weights_[0]["module"].values()
    )
    again = pickle.loads(pickle.dumps(net))
    kept = dict(again.callbacks_)["snapshots"]
    np.testing.assert_array_equal(
        list(kept.predict_by_epoch(again, again.predict, X)),
        list(snapshots.predict_by_epoch(net, net.predict, X)),
    )
