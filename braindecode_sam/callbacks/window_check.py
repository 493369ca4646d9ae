"""A callback that checks the data before a net trains on them."""

from __future__ import annotations

from typing import Any

import mne
import numpy as np
import torch
from numpy.typing import NDArray
from skorch.callbacks import Callback
from skorch.helper import SliceDataset

from braindecode_sam.checks import (
    check_finite,
    check_same_length,
    check_targets,
    check_windows,
)


class WindowCheck(Callback):
    """Check the data that a net is given, before it trains on them.

    Runs :func:`check_windows`, and holds the windows to the module's ``n_chans``,
    ``n_times`` and ``n_outputs`` where the net's parameters set them. For datasets
    every window is read once.

    Examples
    --------
    >>> from braindecode import EEGRegressor
    >>> from braindecode_sam import SAM
    >>> from braindecode_sam.callbacks import WindowCheck
    >>> net = EEGRegressor("EEGNeX", optimizer=SAM, callbacks=[WindowCheck()])
    """

    def on_train_begin(
        self, net: Any, X: Any = None, y: Any = None, **kwargs: Any
    ) -> None:
        """Check the data.

        Raises
        ------
        ValueError
            If they are not fit to be trained on, or contradict the module.
        """
        if isinstance(X, (torch.utils.data.Dataset, SliceDataset)):
            X, y = _first_window(X), _check_dataset(X, y)
        else:
            X = X.get_data(copy=False) if isinstance(X, mne.BaseEpochs) else X
            check_windows(X, y)
        _check_against_module(net, np.shape(X), np.shape(y))


def _check_against_module(
    net: Any, X_shape: tuple[int, ...], y_shape: tuple[int, ...]
) -> None:
    """Compare shapes with the module's parameters, as far as those are set."""
    given = net.get_params_for("module")
    found = {"n_chans": X_shape[1], "n_times": X_shape[2]}
    found["n_outputs"] = y_shape[1] if len(y_shape) > 1 else 1
    for name, value in found.items():
        expected = given.get(name)
        if expected is not None and expected != value:
            raise ValueError(
                f"The data have {name}={value}, but the net is configured for"
                f" module__{name}={expected} (X has the shape {tuple(X_shape)}, y"
                f" {tuple(y_shape)}). Give it such data or pass module__{name}={value}."
            )


def _first_window(dataset: Any) -> NDArray[Any]:
    return np.asarray(_signal(dataset[0]))[None]


def _check_dataset(dataset: Any, y: Any) -> NDArray[Any]:
    """Read all windows once, check them, and return their targets."""
    targets = []
    for i in range(len(dataset)):
        item = dataset[i]
        check_finite(np.asarray(_signal(item)), i)
        targets.append(item[1] if isinstance(item, tuple) else None)
    y = np.asarray(targets if y is None else y)
    check_same_length(X=dataset, y=y)
    check_targets(y)
    return y


def _signal(item: Any) -> Any:
    return item[0] if isinstance(item, tuple) else item
