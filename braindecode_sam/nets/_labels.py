"""Labels of classes, and the numbers that stand for them in batches."""

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
    """Return labels as an array of shape (n_windows,), and those that there are."""
    y = to_numpy(y) if isinstance(y, torch.Tensor) else y
    try:
        with np.errstate(invalid="ignore"):  # what NaN raises is not its name
            found = unique_labels(y)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} must hold labels, all text or all whole numbers, got"
            f" {reprlib.repr(y)}"
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
            f"{name} must hold two classes or more, got {labels.tolist()}; where some"
            " data lack a class, pass classes=[...] with all labels"
        )


def check_whole_numbers(labels: Labels) -> None:
    if labels.dtype.kind not in "biuf":
        raise ValueError(
            "The targets of a Dataset must be whole numbers, got the classes"
            f" {labels.tolist()}; map them in the Dataset, say by its target_transform,"
            " or pass arrays X and y"
        )


def check_known(found: Labels, labels: Labels) -> None:
    known = set(labels.tolist())
    unknown = [label for label in found.tolist() if label not in known]
    if unknown:
        hint = ""
        if set(found.tolist()) <= set(range(len(labels))):
            hint = (
                "; leave classes=None where scikit-learn numbers the labels, as in"
                " VotingClassifier and in cross_val_predict of probabilities"
            )
        raise ValueError(
            f"y has the label {unknown[0]!r}, which is not among the classes"
            f" {labels.tolist()}{hint}"
        )


def encode(y: Labels, labels: Labels) -> NDArray[np.int64]:
    """Turn labels into the numbers that stand for them in batches."""
    found, rows = np.unique(y, return_inverse=True)
    check_known(found, labels)
    places = {label: place for place, label in enumerate(labels.tolist())}
    codes = codes_of(labels)
    return np.array([codes[places[label]] for label in found.tolist()])[rows]


def codes_of(labels: Labels) -> NDArray[np.int64]:
    """Numbers that stand for labels in batches: themselves, or places of text.

    Datasets with targets of their own hold labels, not places.
    """
    if labels.dtype.kind in "biuf":
        return labels.astype(np.int64)
    return np.arange(len(labels))


def class_indices(targets: torch.Tensor, labels: Labels) -> torch.Tensor:
    """Find the places among the classes of targets as batches hold them."""
    codes = torch.as_tensor(codes_of(labels), device=targets.device)
    targets = targets.to(codes.dtype).contiguous()
    places = torch.searchsorted(codes, targets).clamp(max=len(codes) - 1)
    unknown = targets[codes[places] != targets]
    if len(unknown):
        raise ValueError(
            f"A batch has the target {unknown[0].item()}, which is not among the"
            f" classes {labels.tolist()}"
        )
    return places


def read_targets(dataset: Any) -> NDArray[Any]:
    """Read the targets of a dataset, without its windows where that can be."""
    if isinstance(dataset, torch.utils.data.Subset):
        return read_targets(dataset.dataset)[np.asarray(dataset.indices)]
    if isinstance(dataset, BaseConcatDataset) and dataset.target_transform is None:
        return np.concatenate([read_targets(part) for part in dataset.datasets])
    if getattr(dataset, "targets_from", None) == "metadata":  # braindecode's windows
        return np.asarray(dataset.y)
    try:
        return to_numpy(data_from_dataset(dataset)[1])
    except AttributeError:  # not of a kind that skorch knows
        return np.array([np.asarray(dataset[i][1]) for i in range(len(dataset))])


def check_same_targets(dataset: Any, y: Labels, labels: Labels) -> None:
    """Refuse labels that are not those which a dataset trains with."""
    targets = read_targets(dataset)
    is_unknown = targets.dtype == object and (targets == None).all()  # noqa: E711
    if not is_unknown and not np.array_equal(targets, encode(y, labels)):
        raise ValueError(
            "y differs from the targets that the Dataset carries, which are those that"
            " are trained with; pass y=None"
        )
