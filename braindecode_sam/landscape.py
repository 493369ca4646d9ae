r"""How the loss changes around the weights of a fitted net.

Two questions can be asked of weights w and loss L. How fast does the loss rise along a
random direction d, :math:`L(w + \alpha d)`? And how much does it rise in the worst
direction at a distance rho, :math:`L(w + \rho g / \|g\|) - L(w)` with the gradient g of
L, which is what SAM minimizes? A direction alone tells little, as scaling the weights
in front of a normalization layer changes the picture and not the function; Li et al.
therefore give each filter of d the norm of the same filter of w.

Li, Xu, Taylor, Studer, Goldstein: Visualizing the Loss Landscape of Neural Nets,
NeurIPS 2018 (section 4).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from sklearn.utils import check_random_state

from braindecode_sam._arguments import check_choice, check_non_negative

NORMALIZATIONS = ("filter", "none")


def random_direction(
    net: Any,
    *,
    normalization: str = "filter",
    random_state: int | np.random.RandomState | None = None,
) -> list[torch.Tensor]:
    """Draw a direction in the space of a net's weights.

    Parameters
    ----------
    net : skorch.NeuralNet
        Initialized.
    normalization : {"filter", "none"}, default="filter"
        "filter": every filter (row of a weight along its first axis) gets the norm
        that the net's own filter has, biases and normalization layers do not move.
        "none": all parameters move, and the whole direction has the norm 1.
    random_state : int, numpy.random.RandomState or None, default=None
        Seed.

    Returns
    -------
    direction : list of torch.Tensor
        One for each of the module's parameters, in their shapes.

    Raises
    ------
    ValueError
        If `normalization` is unknown.
    """
    check_choice("normalization", normalization, NORMALIZATIONS)
    rng = check_random_state(random_state)
    params = list(net.module_.parameters())
    drawn = [
        torch.as_tensor(rng.standard_normal(p.shape), dtype=p.dtype, device=p.device)
        for p in params
    ]
    if normalization == "filter":
        return [
            _like_filters(d, p.detach()) for d, p in zip(drawn, params, strict=True)
        ]
    norm = torch.stack([d.norm() for d in drawn]).norm()
    return [d / norm for d in drawn]


def _like_filters(direction: torch.Tensor, param: torch.Tensor) -> torch.Tensor:
    if param.ndim < 2:
        return torch.zeros_like(param)
    norms = [t.flatten(1).norm(dim=1) for t in (param, direction)]
    scale = norms[0] / norms[1].clamp_min(torch.finfo(param.dtype).tiny)
    return direction * scale.reshape(-1, *[1] * (param.ndim - 1))


def loss_along(
    net: Any, X: Any, y: Any, direction: list[torch.Tensor], steps: Iterable[float]
) -> list[float]:
    """Evaluate the loss on a line through a net's weights.

    Parameters
    ----------
    net : skorch.NeuralNet
        Fitted. Its weights are put back bit for bit.
    X : array-like of shape (n_windows, n_chans, n_times)
        EEG.
    y : array-like of shape (n_windows,) or (n_windows, n_outputs)
        Targets as the net was trained on them.
    direction : list of torch.Tensor
        As :func:`random_direction` draws it.
    steps : iterable of float
        Multiples of `direction` to add to the weights.

    Returns
    -------
    losses : list of float
        The net's own loss, averaged over all windows, in evaluation mode: without
        dropout, and with the running statistics of BatchNorm.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from skorch import NeuralNetRegressor
    >>> from braindecode_sam.landscape import loss_along
    >>> net = NeuralNetRegressor(torch.nn.Linear, module__in_features=1,
    ...     module__out_features=1, module__bias=False).initialize()
    >>> with torch.no_grad(): _ = net.module_.weight.fill_(2.0)
    >>> X = y = np.ones((4, 1), dtype=np.float32)
    >>> loss_along(net, X, y, [torch.ones(1, 1)], [-1, 0, 1])
    [0.0, 1.0, 4.0]
    """
    losses = []
    for step in steps:
        with perturbed_weights(net, direction, step):
            losses.append(_mean_loss(net, X, y))
    return losses


def sharpness(net: Any, X: Any, y: Any, rho: float = 0.05) -> float:
    r"""Rise of the loss within a step of length rho along its gradient.

    .. math:: L(w + \rho g / \|g\|) - L(w)

    Foret et al., ICLR 2021, eq. 2, over all of `X` at once and in evaluation mode,
    while ``SAMCallback`` records it of each training batch.

    Parameters
    ----------
    net : skorch.NeuralNet
        Fitted. Its weights are put back bit for bit.
    X : array-like of shape (n_windows, n_chans, n_times)
        EEG.
    y : array-like of shape (n_windows,) or (n_windows, n_outputs)
        Targets as the net was trained on them.
    rho : float, default=0.05
        Length of the step, in the units of the weights. Frozen weights stay.

    Returns
    -------
    sharpness : float
        In the units of the loss. 0 where the gradient is.

    Raises
    ------
    ValueError
        If `rho` is negative.
    """
    check_non_negative("rho", rho)
    gradient = _gradient(net, X, y)
    norm = torch.stack([g.norm() for g in gradient]).norm()
    scale = 0.0 if norm == 0 else rho / float(norm)
    before, after = loss_along(net, X, y, gradient, [0.0, scale])
    return after - before


@contextlib.contextmanager
def perturbed_weights(
    net: Any, direction: list[torch.Tensor], step: float
) -> Iterator[None]:
    """Add a multiple of a direction to a net's weights, for as long as this is open."""
    params = list(net.module_.parameters())
    kept = [p.detach().clone() for p in params]
    try:
        with torch.no_grad():
            for param, part in zip(params, direction, strict=True):
                param.add_(part, alpha=float(step))
        yield
    finally:
        with torch.no_grad():
            for param, before in zip(params, kept, strict=True):
                param.copy_(before)


def _losses(net: Any, X: Any, y: Any) -> Iterator[tuple[torch.Tensor, int]]:
    """Give the loss of each batch, in evaluation mode, and its number of windows."""
    net.module_.eval()  # skorch sets the mode before each of its own steps
    for Xi, yi in net.get_iterator(net.get_dataset(X, y), training=False):
        predicted = net.infer(Xi)
        if predicted.numel() == yi.numel():
            yi = yi.reshape(predicted.shape)  # as EEGRegressor.fit makes a column of it
        yield net.get_loss(predicted, yi, X=Xi, training=False), len(yi)


def _mean_loss(net: Any, X: Any, y: Any) -> float:
    with torch.no_grad():
        found = [(float(loss), size) for loss, size in _losses(net, X, y)]
    losses, sizes = zip(*found, strict=True)
    return float(np.average(losses, weights=sizes))


def _gradient(net: Any, X: Any, y: Any) -> list[torch.Tensor]:
    params = list(net.module_.parameters())
    total = [torch.zeros_like(p) for p in params]
    trainable = [p for p in params if p.requires_grad]
    sums = [t for t, p in zip(total, params, strict=True) if p.requires_grad]
    with torch.enable_grad():
        for loss, size in _losses(net, X, y):
            if not loss.requires_grad:  # all that it depends on is frozen
                continue
            parts = torch.autograd.grad(size * loss, trainable, allow_unused=True)
            for sum_, part in zip(sums, parts, strict=True):
                if part is not None:
                    sum_.add_(part)
    return [g / len(y) for g in total]
