"""Batch normalization from given statistics."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

Pair = tuple[torch.Tensor, torch.Tensor]
Normalize = Callable[[int, Callable[[], Pair]], Pair]


def normalizer(norm: torch.nn.BatchNorm2d) -> Normalize:
    """Make the affine map that a BatchNorm layer is, as a function of statistics.

    Parameters
    ----------
    norm : torch.nn.BatchNorm2d
        Its mode decides, not the model's: batch statistics are used, and the running
        ones updated, as the layer itself would.

    Returns
    -------
    normalize : callable
        Gets the number of values that the statistics are of and a function that gives
        their mean and population variance; returns scale and shift of shape
        (n_features,), float64. The statistics are asked for only if they are used.
    """
    return functools.partial(_scale_and_shift, norm)


def _scale_and_shift(norm: Any, count: int, statistics: Callable[[], Pair]) -> Pair:
    if norm.training or norm.running_mean is None:
        mean, variance = statistics()
        if norm.training and norm.track_running_stats:
            _update_running(norm, mean, variance, count)
    else:
        mean, variance = norm.running_mean.double(), norm.running_var.double()
    scale = (variance + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    shift = -mean * scale
    if norm.bias is not None:
        shift = shift + norm.bias.double()
    return scale, shift


@torch.no_grad()
def _update_running(
    norm: Any, mean: torch.Tensor, variance: torch.Tensor, count: int
) -> None:
    if count == 1:
        raise ValueError(
            "Expected more than 1 value per channel when training, got a batch of one"
        )
    norm.num_batches_tracked.add_(1)
    momentum = norm.momentum
    if momentum is None:  # cumulative average
        momentum = 1.0 / float(norm.num_batches_tracked)
    unbiased = variance * (count / (count - 1))
    for running, new in ((norm.running_mean, mean), (norm.running_var, unbiased)):
        running.lerp_(new.to(running.dtype), momentum)
