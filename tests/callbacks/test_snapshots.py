"""The weights kept after each epoch are those with which the net predicts."""

import pickle

import numpy as np
import pytest
import torch
from skorch.callbacks import Callback

from braindecode_sam.callbacks import WeightAveraging, WeightSnapshots
from tests.worker_parts import X, Y, make_net


class Predictions(Callback):
    """Predict at the end of each epoch, as the last of the callbacks."""

    def initialize(self):
        self.found_ = []
        return self

    def on_epoch_end(self, net, **kwargs):
        self.found_.append(net.predict(X).ravel())


def fitted(*callbacks, module="FastEEGNet"):
    net = make_net(*callbacks, module=module, max_epochs=3, batch_size=18)
    net.fit(X, Y)
    return net


def snapshots_of(net):
    return dict(net.callbacks_)["snapshots"]


@pytest.mark.parametrize(
    ("module", "averages"), [("FastEEGNet", True), ("EEGNeX", False)]
)
def test_each_epoch_predicts_as_it_did(module, averages):
    averaging = [("averaging", WeightAveraging("ema", decay=0.5))] if averages else []
    kept = [("snapshots", WeightSnapshots()), ("predictions", Predictions())]
    net = fitted(*averaging, *kept, module=module)
    final = net.predict(X)
    found = list(snapshots_of(net).predict_by_epoch(net, net.predict, X))
    np.testing.assert_array_equal(found, dict(net.callbacks_)["predictions"].found_)
    np.testing.assert_array_equal(net.predict(X), final)
    assert not np.array_equal(found[0], found[1])


def test_weights_are_restored_if_predicting_fails_and_between_predictions():
    net = fitted(("snapshots", WeightSnapshots()))
    final = net.predict(X)
    np.testing.assert_array_equal(fitted().predict(X), final)

    def fail(X):
        raise RuntimeError("out of luck")

    snapshots = snapshots_of(net)
    with pytest.raises(RuntimeError, match="out of luck"):
        next(snapshots.predict_by_epoch(net, fail, X))
    np.testing.assert_array_equal(net.predict(X), final)
    halves = [snapshots.predict_by_epoch(net, net.predict, part) for part in (X, X)]
    for first, second in zip(*halves, strict=True):
        np.testing.assert_array_equal(first, second)
        np.testing.assert_array_equal(net.predict(X), final)


def test_a_second_fit_and_a_pickle_keep_their_own():
    net = fitted(("snapshots", WeightSnapshots()))
    net.fit(X, Y)
    snapshots = snapshots_of(net)
    assert len(snapshots.weights_) == 3
    kept = snapshots.weights_[0]["module"].values()
    assert all(tensor.device == torch.device("cpu") for tensor in kept)
    again = pickle.loads(pickle.dumps(net))
    np.testing.assert_array_equal(
        list(snapshots_of(again).predict_by_epoch(again, again.predict, X)),
        list(snapshots.predict_by_epoch(net, net.predict, X)),
    )
