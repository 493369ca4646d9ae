"""A callback that checks the data before a net trains on them."""

from __future__ import annotations

from typing import Any

import mne
import numpy as np
import torch
from numpy.typing import NDArray
from skorch import NeuralNetRegressor
from skorch.callbacks import Callback
from skorch.helper import SliceDataset

from braindecode_sam.checks import (
    check_finite,
    check_same_length,
    check_scale,
    check_targets,
    check_windows,
)

SOME = 16  # windows of a dataset, to look at their scale


class WindowCheck(Callback):
    """Check the data that a net is given, before it trains on them.

    Runs :func:`check_windows`, and holds the windows to the module's ``n_chans``,
    ``n_times`` and ``n_outputs`` where the net's parameters set them. Warns of windows
    whose unit is probably not microvolts. For datasets every window is read once.

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
            X, y = _read_dataset(X, y)
        else:
            # As braindecode's nets take them.
            X = X.get_data(units="uV") if isinstance(X, mne.BaseEpochs) else X
            check_windows(X, y)
        check_scale(X)
        _check_against_module(net, np.shape(X), np.shape(y))
        if isinstance(net, NeuralNetRegressor):
            _check_column(net, np.shape(y))

    def on_epoch_begin(
        self,
        net: Any,
        dataset_train: Any = None,
        dataset_valid: Any = None,
        **kwargs: Any,
    ) -> None:
        """Check that there is a batch to train on.

        Raises
        ------
        ValueError
            If there are fewer windows than in a batch, and such a batch is dropped.
        """
        loader = net.get_iterator(dataset_train, training=True)
        loader = getattr(loader, "loader", loader)
        if getattr(loader, "drop_last", False) and len(loader) == 0:
            raise ValueError(
                f"The net trains on {len(dataset_train)} windows, fewer than"
                f" batch_size={net.batch_size}, and drops the last, smaller batch:"
                " nothing would be trained. Pass a smaller batch_size, or"
                " iterator_train__drop_last=False."
            )


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


def _check_column(net: NeuralNetRegressor, y_shape: tuple[int, ...]) -> None:
    if len(y_shape) == 1 and type(net).get_loss is NeuralNetRegressor.get_loss:
        raise ValueError(
            f"The targets have the shape {y_shape} where the net predicts {y_shape[0]}"
            " rows of one column, so its loss would compare each target with every"
            " prediction. Give targets of the shape (n_windows, 1); of a windows"
            " dataset, set target_transform=lambda y: np.atleast_1d(np.float32(y))."
        )


def _read_dataset(dataset: Any, y: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    """Read all windows once, check them; return some of them, and all targets."""
    step = -(-len(dataset) // SOME)
    windows, targets = [], []
    for i in range(len(dataset)):
        item = dataset[i]
        window = np.asarray(_signal(item))
        check_finite(window, i)
        if i % step == 0:
            windows.append(window)
        targets.append(item[1] if isinstance(item, tuple) else None)
    y = np.asarray(targets if y is None else y)
    check_same_length(X=dataset, y=y)
    check_targets(y)
    return np.stack(windows), y


def _signal(item: Any) -> Any:
    return item[0] if isinstance(item, tuple) else item
