"""Labels of classes, and their integer codes in batches."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from braindecode.datasets import BaseConcatDataset
from numpy.typing import NDArray
from sklearn.utils import column_or_1d
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import unique_labels
from skorch.utils import data_from_dataset, to_numpy

Labels = NDArray[Any]


def as_labels(name: str, y: Any) -> tuple[Labels, Labels]:
    """Return labels as an array of shape (n_windows,), and the unique ones."""
    y = to_numpy(y) if isinstance(y, torch.Tensor) else y
    try:
        with np.errstate(invalid="ignore"):  # NaN raises an error below
            found = unique_labels(y)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} must hold labels, all text or all integers, got {reprlib.repr(y)}"
        ) from error
    return column_or_1d(y, warn=True), found


def sorted_classes(classes: Any) -> Labels:
    """Return the unique labels of a parameter."""
    _, labels = as_labels("classes", classes)
    check_several_classes("classes", labels)
    return labels


def check_several_classes(name: str, labels: Labels) -> None:
    """Raise for a single class."""
    if len(labels) < 2:
        raise ValueError(
            f"{name} must hold at least two classes, got {labels.tolist()}; if some"
            " data lack a class, pass classes=[...] with all labels"
        )


def check_known(found: Labels, labels: Labels) -> None:
    """Raise for labels that are not among the classes."""
    known = set(labels.tolist())
    unknown = [label for label in found.tolist() if label not in known]
    if unknown:
        hint = ""
        if set(found.tolist()) <= set(range(len(labels))):
            hint = (
                "; keep classes=None where scikit-learn encodes the labels, as in"
                " VotingClassifier and in cross_val_predict of probabilities"
            )
        raise ValueError(
            f"y must hold labels among the classes {labels.tolist()}, got"
            f" {unknown[0]!r}{hint}"
        )


def is_text(labels: Labels) -> bool:
    """Return whether labels are text, which batches replace by indices."""
    return labels.dtype.kind not in "biuf"


def encode(y: Labels, labels: Labels) -> NDArray[np.int64]:
    """Convert labels to numbers for batches.

    Text becomes the index of its class. Numbers stay, since the targets of a Dataset
    are such numbers.
    """
    check_known(np.unique(y), labels)
    return np.searchsorted(labels, y) if is_text(labels) else y.astype(np.int64)


def class_indices(targets: torch.Tensor, labels: Labels) -> torch.Tensor:
    """Convert the targets of a batch to indices of the classes.

    No value is read, so that a GPU is not waited for. For an unknown target the index
    is too large, so that the criterion raises.
    """
    if targets.shape[1:] == (1,):  # of windows whose targets are for regression, too
        targets = targets[:, 0]
    targets = targets.long().contiguous()
    if is_text(labels) or np.array_equal(labels, np.arange(len(labels))):
        return targets
    codes = torch.as_tensor(labels.astype(np.int64), device=targets.device)
    indices = torch.searchsorted(codes, targets).clamp(max=len(codes) - 1)
    return indices.where(codes[indices] == targets, len(codes))


def read_targets(dataset: Any) -> NDArray[Any]:
    """Read the targets of a dataset, without its windows if possible."""
    if isinstance(dataset, torch.utils.data.Subset):
        return read_targets(dataset.dataset)[np.asarray(dataset.indices)]
    if isinstance(dataset, BaseConcatDataset) and dataset.target_transform is None:
        return np.concatenate([read_targets(part) for part in dataset.datasets])
    if getattr(dataset, "targets_from", None) == "metadata":  # braindecode's windows
        return np.asarray(dataset.y)
    try:
        return to_numpy(data_from_dataset(dataset)[1])
    except AttributeError:  # skorch does not know this type
        targets = np.array([np.asarray(dataset[i][1]) for i in range(len(dataset))])
        return targets[:, 0] if targets.shape[1:] == (1,) else targets


def class_weights(
    class_weight: Any, labels: Labels, y: Labels | None
) -> NDArray[np.float64]:
    """Compute the weight of each class, as scikit-learn does.

    A class that `y` lacks gets the weight 1.
    """
    if isinstance(class_weight, Mapping):
        unknown = [label for label in class_weight if label not in labels.tolist()]
        wrong = [w for w in class_weight.values() if not 0 < w < np.inf]
        if unknown or wrong:
            raise ValueError(
                "class_weight must hold positive numbers for some of the classes"
                f" {labels.tolist()}, got {dict(class_weight)!r}"
            )
        return np.array([class_weight.get(label, 1.0) for label in labels.tolist()])
    y, weights = np.asarray(y), np.ones(len(labels))
    is_present = np.isin(labels, y)
    weights[is_present] = compute_class_weight(
        class_weight, classes=labels[is_present], y=y
    )
    return weights
