"""Weights of classes in the loss."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils.class_weight import compute_class_weight

from braindecode_sam._arguments import check_positive
from braindecode_sam.nets._labels import Labels, codes_of, encode


def check_takes_weight(criterion: Any, params: Mapping[str, Any]) -> None:
    if "weight" in params:
        raise ValueError(
            "class_weight and criterion__weight cannot be combined, got"
            f" criterion__weight={params['weight']!r}; pass one of them"
        )
    takes = False
    if not isinstance(criterion, torch.nn.Module):  # not an instance
        parameters = inspect.signature(criterion).parameters.values()
        kinds = {p.kind for p in parameters}
        takes = inspect.Parameter.VAR_KEYWORD in kinds
        takes = takes or "weight" in {p.name for p in parameters}
    if not takes:
        raise ValueError(
            "class_weight needs a criterion class that takes a weight, such as"
            f" torch.nn.CrossEntropyLoss, got criterion={name_of_criterion(criterion)}"
        )


def check_has_weight(criterion: Any) -> None:
    if not hasattr(criterion, "weight"):
        raise ValueError(
            "class_weight can change in an initialized net only if its criterion has"
            f" the attribute weight, as torch's losses do, got {criterion!r}"
        )


def compute_class_weights(
    class_weight: Any, labels: Labels, y: Labels | None
) -> NDArray[np.float64]:
    """Compute the weight of each class."""
    if isinstance(class_weight, Mapping):
        return _weights_of_dict(class_weight, labels)
    if not (isinstance(class_weight, str) and class_weight == "balanced"):
        raise ValueError(
            "class_weight must be None, 'balanced' or a dict of label to weight, got"
            f" {class_weight!r}"
        )
    weights = np.ones(len(labels))
    indices = np.searchsorted(codes_of(labels), encode(np.asarray(y), labels))
    present = np.unique(indices)
    weights[present] = compute_class_weight("balanced", classes=present, y=indices)
    return weights


def _weights_of_dict(
    class_weight: Mapping[Any, Any], labels: Labels
) -> NDArray[np.float64]:
    known = labels.tolist()
    unknown = [label for label in class_weight if label not in known]
    missing = [label for label in known if label not in class_weight]
    if unknown or missing:
        wrong = (
            f"{missing[0]!r} has no weight"
            if missing
            else f"{unknown[0]!r} is not a class"
        )
        raise ValueError(
            f"class_weight must hold a weight for each of the classes {known} and no"
            f" others, got {dict(class_weight)!r}, where {wrong}"
        )
    for label in known:
        # With 0, the loss of a batch with that class only would be 0 / 0.
        check_positive(f"class_weight[{label!r}]", class_weight[label])
    return np.array([class_weight[label] for label in known], dtype=np.float64)


def name_of_criterion(criterion: Any) -> str:
    return getattr(criterion, "__name__", repr(criterion))
