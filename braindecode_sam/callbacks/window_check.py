"""A callback that checks the training data."""

from __future__ import annotations

import fnmatch
from typing import Any

import mne
import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from skorch import NeuralNetBinaryClassifier, NeuralNetClassifier, NeuralNetRegressor
from skorch.callbacks import Callback
from skorch.helper import SliceDataset

from braindecode_sam._checks import (
    check_finite,
    check_float32,
    check_same_length,
    check_scale,
    check_targets,
    check_windows,
)

N_SCALED = 16  # windows of a dataset whose scale is checked


class WindowCheck(BaseEstimator, Callback):
    """Check the data, and some settings, before a net trains.

    The windows must have three dimensions, no value may be missing or infinite, and the
    targets must vary. If the net's parameters set the module's ``n_chans``, ``n_times``
    and ``n_outputs``, the callback compares them with the data. For a classifier,
    ``n_outputs`` is compared with the number of classes, and labels may be strings. It
    warns if the unit of the windows is probably not microvolts. Every window of a
    dataset is read once. Each epoch must have a batch, and each pattern of
    ``optimizer__param_groups`` a parameter.

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
        """Check the data, and the patterns of ``optimizer__param_groups``.

        Raises
        ------
        ValueError
            If the net cannot be trained on the data, or they do not match the module,
            or a pattern matches no parameter.
        """
        _check_patterns(net)
        if isinstance(X, (torch.utils.data.Dataset, SliceDataset)):
            X, y = _read_dataset(X, y)
        else:
            # braindecode's nets convert MNE's epochs in the same way.
            if isinstance(X, mne.BaseEpochs):
                if "stim" in X.get_channel_types():
                    raise ValueError(
                        "The epochs have channels of the type 'stim', which hold the"
                        " labels and must not be inputs, got"
                        f" {X.copy().pick('stim').ch_names}; call epochs.pick('data')"
                    )
                X = X.get_data(units="uV")
            check_windows(X)
            check_same_length(X=X, y=y)
        if isinstance(net, (NeuralNetClassifier, NeuralNetBinaryClassifier)):
            _check_labels(net, y)
        elif y is not None:
            check_targets(y)
            check_float32(y)
        check_scale(X)
        _check_against_module(net, np.shape(X), y)
        adds_column = type(net).get_loss is not NeuralNetRegressor.get_loss
        if isinstance(net, NeuralNetRegressor) and np.ndim(y) == 1 and not adds_column:
            raise ValueError(
                f"The targets have the shape {np.shape(y)}, but the net's predictions"
                f" have the shape ({len(y)}, 1). The loss would compare each target"
                " with every prediction. Pass targets of the shape (n_windows, 1). For"
                " a windows dataset, set"
                " target_transform=lambda y: np.atleast_1d(np.float32(y))."
            )

    def on_epoch_begin(
        self, net: Any, dataset_train: Any = None, **kwargs: Any
    ) -> None:
        """Check that there is a batch to train on.

        Raises
        ------
        ValueError
            If there are fewer windows than in a batch, and smaller batches are dropped.
        """
        loader = net.get_iterator(dataset_train, training=True)
        loader = getattr(loader, "loader", loader)
        if getattr(loader, "drop_last", False) and len(loader) == 0:
            raise ValueError(
                f"The net trains on {len(dataset_train)} windows, fewer than"
                f" batch_size={net.batch_size}, and drops the last, smaller batch, so"
                " that no batch is left. Pass a smaller batch_size, or"
                " iterator_train__drop_last=False."
            )


def _check_patterns(net: Any) -> None:
    """Raise if a pattern matches no parameter. skorch would ignore it silently."""
    names = [name for name, _ in net.get_all_learnable_params()]
    for pattern, options in net.get_params_for("optimizer").get("param_groups") or []:
        if not fnmatch.filter(names, pattern):
            raise ValueError(
                f"optimizer__param_groups has the pattern {pattern!r} for {options!r},"
                f" which matches none of {len(names)} parameters; expected patterns of"
                f" names such as {names[0]!r}. A weight with a parametrization, for"
                " instance a max-norm, is named '*.parametrizations.weight.original'."
            )


def _check_labels(net: Any, y: Any) -> None:
    """Check that no label is missing, and that there are at least two classes."""
    labels = np.asarray(y)
    if labels.dtype.kind == "f" and not np.isfinite(labels).all():
        wrong = tuple(np.argwhere(~np.isfinite(labels))[0])
        raise ValueError(
            f"y must hold labels, got {labels[wrong]} for window {wrong[0]}"
        )
    found = np.unique(labels)
    if len(found) < 2 and _fixed_classes(net) is None:
        raise ValueError(
            f"y is constant ({found.tolist()} in all {len(labels)} windows); expected"
            " labels of at least two classes, or classes=[...] with all labels"
        )


def _fixed_classes(net: Any) -> Any:
    """Labels that a net has before it sees y, or None."""
    if isinstance(net, NeuralNetBinaryClassifier):
        return None
    if type(net).classes_ is not NeuralNetClassifier.classes_:
        return net.classes_
    return net.classes if net.classes is not None and len(net.classes) else None


def _check_against_module(net: Any, X_shape: tuple[int, ...], y: Any) -> None:
    """Compare the data with those parameters of the module that are set."""
    given = net.get_params_for("module")
    n_outputs = np.shape(y)[1] if np.ndim(y) > 1 else 1
    if isinstance(net, NeuralNetClassifier):
        classes = _fixed_classes(net)
        # The targets of skorch's classifiers are indices, and some may be absent.
        n_found = max(len(np.unique(y)), given.get("n_outputs") or 0)
        n_outputs = n_found if classes is None else len(classes)
    found = {"n_chans": X_shape[1], "n_times": X_shape[2], "n_outputs": n_outputs}
    for name, value in found.items():
        expected = given.get(name)
        if expected is not None and expected != value:
            raise ValueError(
                f"The data have {name}={value}, but the net is configured for"
                f" module__{name}={expected} (X has the shape {tuple(X_shape)}, y"
                f" {np.shape(y)}). Pass other data or module__{name}={value}."
            )


def _read_dataset(dataset: Any, y: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    """Read and check all windows once. Return some of them, and all targets."""
    step = -(-len(dataset) // N_SCALED)
    windows, targets = [], []
    for i in range(len(dataset)):
        item = dataset[i]
        window, target = item[:2] if isinstance(item, tuple) else (item, None)
        check_finite(np.asarray(window)[None], i)
        if i % step == 0:
            windows.append(np.asarray(window))
        targets.append(target)
    y = np.asarray(targets if y is None else y)
    check_same_length(X=dataset, y=y)
    return np.stack(windows), y
