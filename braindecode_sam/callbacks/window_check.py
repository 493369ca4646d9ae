"""A callback that checks the data before a net trains on them."""

from __future__ import annotations

from typing import Any

import mne
import numpy as np
import torch
from numpy.typing import NDArray
from skorch import NeuralNetBinaryClassifier, NeuralNetClassifier, NeuralNetRegressor
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
    ``n_times`` and ``n_outputs`` where the net's parameters set them; of a classifier,
    ``n_outputs`` is held to the number of classes, and its labels may be text. Warns of
    windows whose unit is probably not microvolts. For datasets every window is read
    once.

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
            check_windows(X)
            check_same_length(X=X, y=y)
        if isinstance(net, (NeuralNetClassifier, NeuralNetBinaryClassifier)):
            _check_labels(net, y)
        elif y is not None:
            check_targets(y)
        check_scale(X)
        _check_against_module(net, np.shape(X), y)
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


def _check_labels(net: Any, y: Any) -> None:
    """Check that labels are known, and that there are several."""
    labels = np.asarray(y)
    if labels.dtype.kind == "f" and not np.isfinite(labels).all():
        wrong = np.argwhere(~np.isfinite(labels))[0]
        raise ValueError(
            f"y must hold labels, got {labels[tuple(wrong)]} for window {wrong[0]}"
        )
    found = np.unique(labels)
    if len(found) < 2 and _fixed_classes(net) is None:
        raise ValueError(
            f"y is constant ({found.tolist()} in all {len(labels)} windows); expected"
            " labels of two classes or more, or classes=[...] with all labels"
        )


def _fixed_classes(net: Any) -> Any:
    """Labels that a net knows before it looks at y; None where there are none."""
    if isinstance(net, NeuralNetBinaryClassifier):
        return None
    if type(net).classes_ is not NeuralNetClassifier.classes_:
        return net.classes_
    return net.classes if net.classes is not None and len(net.classes) else None


def _check_against_module(net: Any, X_shape: tuple[int, ...], y: Any) -> None:
    """Compare the data with the module's parameters, as far as those are set."""
    given = net.get_params_for("module")
    found = {"n_chans": X_shape[1], "n_times": X_shape[2]}
    found["n_outputs"] = _n_outputs(net, y, given.get("n_outputs"))
    for name, value in found.items():
        expected = given.get(name)
        if expected is not None and expected != value:
            raise ValueError(
                f"The data have {name}={value}, but the net is configured for"
                f" module__{name}={expected} (X has the shape {tuple(X_shape)}, y"
                f" {np.shape(y)}). Give it such data or pass module__{name}={value}."
            )


def _n_outputs(net: Any, y: Any, expected: int | None) -> int:
    """Count the outputs that the targets need."""
    if isinstance(net, NeuralNetClassifier):
        classes = _fixed_classes(net)
        if classes is not None:
            return len(classes)
        # A stock classifier's targets are places, of which the data may lack some.
        return max(len(np.unique(y)), expected or 0)
    shape = np.shape(y)
    return shape[1] if len(shape) > 1 else 1


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
    return np.stack(windows), y


def _signal(item: Any) -> Any:
    return item[0] if isinstance(item, tuple) else item
