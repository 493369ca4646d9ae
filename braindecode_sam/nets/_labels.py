"""Labels of classes, and their integer codes in batches."""

from __future__ import annotations

import reprlib
from typing import Any

import numpy as np
import torch
from braindecode.datasets import BaseConcatDataset
from numpy.typing import NDArray
from sklearn.utils import column_or_1d
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


def has_text(y: Any) -> bool:
    is_array = y is not None and not isinstance(y, torch.Tensor)
    return is_array and np.asarray(y).dtype.kind in "OSTU"


def sorted_classes(classes: Any) -> Labels:
    _, labels = as_labels("classes", classes)
    check_several_classes("classes", labels)
    return labels


def check_several_classes(name: str, labels: Labels) -> None:
    if len(labels) < 2:
        raise ValueError(
            f"{name} must hold at least two classes, got {labels.tolist()}; if some"
            " data lack a class, pass classes=[...] with all labels"
        )


def check_integers(labels: Labels) -> None:
    if labels.dtype.kind not in "biuf":
        raise ValueError(
            "The targets of a Dataset must be integers, got the classes"
            f" {labels.tolist()}; convert them in the Dataset, for example with its"
            " target_transform, or pass arrays X and y"
        )


def check_known(found: Labels, labels: Labels) -> None:
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


def encode(y: Labels, labels: Labels) -> NDArray[np.int64]:
    """Convert labels to their codes."""
    found, rows = np.unique(y, return_inverse=True)
    check_known(found, labels)
    indices = {label: index for index, label in enumerate(labels.tolist())}
    codes = codes_of(labels)
    return np.array([codes[indices[label]] for label in found.tolist()])[rows]


def codes_of(labels: Labels) -> NDArray[np.int64]:
    """Return the codes of labels in batches: numbers themselves, or indices of text.

    Numbers are not replaced by indices, since the targets of a Dataset are labels.
    """
    if labels.dtype.kind in "biuf":
        return labels.astype(np.int64)
    return np.arange(len(labels))


def class_indices(targets: torch.Tensor, labels: Labels) -> torch.Tensor:
    """Convert codes in a batch to indices of the classes."""
    codes = torch.as_tensor(codes_of(labels), device=targets.device)
    if targets.shape[1:] == (1,):  # of windows whose targets are for regression, too
        targets = targets[:, 0]
    targets = targets.to(codes.dtype).contiguous()
    indices = torch.searchsorted(codes, targets).clamp(max=len(codes) - 1)
    unknown = targets[codes[indices] != targets]
    if len(unknown):
        raise ValueError(
            f"targets must be among the classes {labels.tolist()}, got"
            f" {unknown[0].item()} in a batch"
        )
    return indices


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


def check_same_targets(dataset: Any, y: Labels, labels: Labels) -> None:
    """Raise if labels differ from the targets of a dataset."""
    targets = read_targets(dataset)
    is_unknown = targets.dtype == object and (targets == None).all()  # noqa: E711
    if not is_unknown and not np.array_equal(targets, encode(y, labels)):
        raise ValueError(
            "y must equal the targets of the Dataset, which are used for training;"
            " pass y=None"
        )
