"""A callback that speeds up a net's module."""

from __future__ import annotations

from typing import Any

from skorch.callbacks import Callback

from braindecode_sam.models import speed_up
from braindecode_sam.models.speed_up import WaitingConv2d


class SpeedUp(Callback):
    """Speed up a net's module when training begins.

    For nets that build their modules by name. Weights, optimizer and history are not
    touched, and a net that is only initialized predicts with the stock layers: the
    same numbers, up to rounding.

    Parameters
    ----------
    verbose : bool, default=False
        Print what got faster, as :func:`braindecode_sam.speed_up` does.

    See Also
    --------
    braindecode_sam.speed_up : What it calls.
    braindecode_sam.unspeed : Takes it back.

    Examples
    --------
    >>> import numpy as np
    >>> from braindecode import EEGClassifier
    >>> from braindecode_sam.callbacks import SpeedUp
    >>> net = EEGClassifier(
    ...     "CTNet", callbacks=[SpeedUp()], max_epochs=1, batch_size=4, verbose=0,
    ...     train_split=None, module__sfreq=100, classes=[0, 1])
    >>> X = np.random.default_rng(0).normal(size=(8, 4, 200)).astype("float32")
    >>> type(net.fit(X, np.tile([0, 1], 4)).module_.cnn.eegnet_module[0]).__name__
    'WaitingConv2d'
    """

    def __init__(self, verbose: bool = False) -> None:
        self.verbose = verbose

    def on_train_begin(
        self, net: Any, X: Any = None, y: Any = None, **kwargs: Any
    ) -> None:
        """Speed up all modules of the net that are not sped up already."""
        for name in net._modules:
            module = getattr(net, name + "_")
            if not any(isinstance(layer, WaitingConv2d) for layer in module.modules()):
                speed_up(module, verbose=self.verbose)
