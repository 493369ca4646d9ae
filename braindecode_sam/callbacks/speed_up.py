"""A callback that applies speed_up to a net's module."""

from __future__ import annotations

from typing import Any

from sklearn.base import BaseEstimator
from skorch.callbacks import Callback

from braindecode_sam.models import speed_up
from braindecode_sam.models.speed_up import is_sped_up


class SpeedUp(BaseEstimator, Callback):
    """Apply speed_up to a net's module when training begins.

    This is for nets that build their module by name. Weights, optimizer and history
    stay the same. A net that is only initialized predicts with the original layers,
    which give the same numbers up to rounding.

    Parameters
    ----------
    verbose : bool, default=False
        Print which layers run faster, as :func:`braindecode_sam.speed_up` does.
    exact_masks : bool, default=True
        Draw the dropout masks of torch, as :func:`braindecode_sam.speed_up` says.

    See Also
    --------
    braindecode_sam.speed_up : The function that it calls.
    braindecode_sam.unspeed : Restore the original layers.

    Examples
    --------
    >>> import numpy as np
    >>> from braindecode import EEGClassifier
    >>> from braindecode_sam.callbacks import SpeedUp
    >>> net = EEGClassifier(
    ...     "CTNet", callbacks=[SpeedUp()], max_epochs=1, batch_size=4, verbose=0,
    ...     train_split=None, module__sfreq=100, classes=[0, 1])
    >>> X = np.random.default_rng(0).normal(size=(8, 4, 200)).astype("float32")
    >>> net = net.fit(X, np.tile([0, 1], 4))
    >>> type(net.module_.cnn.eegnet_module[0]).__name__
    'WaitingConv2d'
    """

    def __init__(self, verbose: bool = False, exact_masks: bool = True) -> None:
        self.verbose = verbose
        self.exact_masks = exact_masks

    def on_train_begin(self, net: Any, **kwargs: Any) -> None:
        """Speed up the modules of the net, unless they already are."""
        for name in net._modules:
            module = getattr(net, name + "_")
            if not is_sped_up(module):
                speed_up(module, exact_masks=self.exact_masks, verbose=self.verbose)
