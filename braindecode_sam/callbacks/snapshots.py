"""A callback that keeps the weights of every epoch."""

from __future__ import annotations

import copy
from typing import Any, Self

import torch
from sklearn.base import BaseEstimator
from skorch.callbacks import Callback


class WeightSnapshots(BaseEstimator, Callback):
    """Keep a copy of the weights and buffers after each epoch.

    Scores of the test fold after each epoch must not influence the training. This
    callback does not use the test fold. It keeps the weights of each epoch, with which
    :meth:`predict_by_epoch` predicts after training. List it before callbacks that stop
    the training, such as ``EarlyStopping``, since later callbacks do not see the last
    epoch.

    Attributes
    ----------
    weights_ : list of dict
        For each epoch, the ``state_dict`` of each module by its name, on the CPU.

    See Also
    --------
    braindecode_sam.comparison.Comparison.plot_by_epoch : Plot scores by epoch.

    Examples
    --------
    >>> import numpy as np
    >>> from braindecode import EEGRegressor
    >>> from braindecode_sam import SAM
    >>> from braindecode_sam.callbacks import WeightSnapshots
    >>> X, y = np.random.randn(8, 4, 100).astype("float32"), np.arange(8, dtype="f4")
    >>> net = EEGRegressor(
    ...     "FastEEGNeX", optimizer=SAM, max_epochs=3, batch_size=4, verbose=0,
    ...     train_split=None, callbacks=[("snapshots", WeightSnapshots())])
    >>> _ = net.fit(X, y)
    >>> snapshots = dict(net.callbacks_)["snapshots"]
    >>> len(list(snapshots.predict_by_epoch(net, net.predict, X)))
    3
    """

    def initialize(self) -> Self:
        """Discard the weights of an earlier training run."""
        self.weights_: list[dict[str, Any]] = []
        return self

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        """Copy the weights."""
        self.weights_.append(_weights(net))

    def predict_by_epoch(self, net: Any, predict: Any, X: Any) -> Any:
        """Predict with the weights of each epoch.

        Parameters
        ----------
        net : skorch.NeuralNet
            The fitted net. Its final weights are restored after each prediction.
        predict : callable
            Called with `X`. It is ``net.predict``, or a method of a pipeline or
            meta-estimator that contains the net.
        X : array-like of shape (n_windows, n_chans, n_times)
            EEG.

        Yields
        ------
        y_pred : ndarray
            Result of `predict` with the weights of each epoch, in order.
        """
        for weights in self.weights_:
            final = _weights(net)
            try:
                _load(net, weights)
                y_pred = predict(X)
            finally:
                _load(net, final)
            yield y_pred


def _weights(net: Any) -> dict[str, Any]:
    return {
        name: {
            key: value.detach().cpu().clone()
            if isinstance(value, torch.Tensor)
            else copy.deepcopy(value)  # a module's extra state
            for key, value in getattr(net, name + "_").state_dict().items()
        }
        for name in net._modules
    }


def _load(net: Any, weights: dict[str, Any]) -> None:
    for name, state in weights.items():
        getattr(net, name + "_").load_state_dict(state)
