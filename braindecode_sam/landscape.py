"""The loss landscape around the weights of a fitted net."""

from __future__ import annotations

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
        Initialized net.
    normalization : {"filter", "none"}, default="filter"
        "filter" gives every filter (row of a weight along its first axis) the norm of
        the net's own filter [1]_. Biases and normalization layers do not move. With
        "none", all parameters move, and the whole direction has the norm 1.
    random_state : int, numpy.random.RandomState or None, default=None
        Seed.

    Returns
    -------
    direction : list of torch.Tensor
        Tensors in the shapes of the module's parameters.

    Raises
    ------
    ValueError
        If `normalization` is unknown.

    See Also
    --------
    loss_along : Evaluate the loss along a direction.

    Notes
    -----
    The rise of the loss along a random direction depends on the scale of the weights.
    In front of a normalization layer, rescaled weights give the same function but a
    different curve. Filter normalization (section 4 of [1]_) removes this dependence.

    References
    ----------
    .. [1] H. Li, Z. Xu, G. Taylor, C. Studer, T. Goldstein. "Visualizing the Loss
       Landscape of Neural Nets", NeurIPS 2018.
       https://doi.org/10.48550/arXiv.1712.09913

    Examples
    --------
    >>> import torch
    >>> from skorch import NeuralNetRegressor
    >>> from braindecode_sam.landscape import random_direction
    >>> net = NeuralNetRegressor(
    ...     torch.nn.Linear, module__in_features=3,
    ...     module__out_features=2).initialize()
    >>> weight, bias = random_direction(net, random_state=0)
    >>> weight.shape, bias
    (torch.Size([2, 3]), tensor([0., 0.]))
    """
    check_choice("normalization", normalization, NORMALIZATIONS)
    rng = check_random_state(random_state)
    params = list(net.module_.parameters())
    drawn = [
        torch.as_tensor(rng.standard_normal(p.shape), dtype=p.dtype, device=p.device)
        for p in params
    ]
    if normalization == "none":
        norm = torch.stack([d.norm() for d in drawn]).norm()
        return [d / norm for d in drawn]
    direction = []
    for d, p in zip(drawn, params, strict=True):
        if p.ndim < 2:
            direction.append(torch.zeros_like(d))
            continue
        wanted, found = (t.flatten(1).norm(dim=1) for t in (p.detach(), d))
        scale = wanted / found.clamp_min(torch.finfo(p.dtype).tiny)
        direction.append(d * scale.reshape(-1, *[1] * (p.ndim - 1)))
    return direction


@torch.no_grad()
def loss_along(
    net: Any, X: Any, y: Any, direction: list[torch.Tensor], steps: Iterable[float]
) -> list[float]:
    """Evaluate the loss on a line through a net's weights.

    Parameters
    ----------
    net : skorch.NeuralNet
        Fitted net. Its weights are restored.
    X : array-like of shape (n_windows, n_chans, n_times)
        EEG.
    y : array-like of shape (n_windows,) or (n_windows, n_outputs)
        Targets in the form in which the net was trained on them.
    direction : list of torch.Tensor
        Direction, as from :func:`random_direction`.
    steps : iterable of float
        Multiples of `direction` to add to the weights.

    Returns
    -------
    losses : list of float
        Loss of the net's criterion, averaged over all windows. The module is in
        evaluation mode, without dropout and with BatchNorm's running statistics.

    See Also
    --------
    random_direction : Draw a direction.
    sharpness : Rise of the loss along its gradient.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from skorch import NeuralNetRegressor
    >>> from braindecode_sam.landscape import loss_along
    >>> net = NeuralNetRegressor(
    ...     torch.nn.Linear, module__in_features=1,
    ...     module__out_features=1, module__bias=False).initialize()
    >>> with torch.no_grad():
    ...     _ = net.module_.weight.fill_(2.0)
    >>> X = y = np.ones((4, 1), dtype=np.float32)
    >>> loss_along(net, X, y, [torch.ones(1, 1)], [-1, 0, 1])
    [0.0, 1.0, 4.0]
    """
    params = list(net.module_.parameters())
    kept = [p.detach().clone() for p in params]
    losses = []
    try:
        for step in steps:
            for param, before, part in zip(params, kept, direction, strict=True):
                param.copy_(before).add_(part, alpha=float(step))
            of_batches, sizes = zip(*_losses(net, X, y), strict=True)
            losses.append(
                float(np.average(list(map(float, of_batches)), weights=sizes))
            )
    finally:
        for param, before in zip(params, kept, strict=True):
            param.copy_(before)
    return losses


def sharpness(net: Any, X: Any, y: Any, rho: float = 0.05) -> float:
    r"""Return the rise of the loss at the distance rho along its gradient.

    This is the sharpness that SAM minimizes (eq. 2 of [1]_), here over all windows and
    in evaluation mode.

    Parameters
    ----------
    net, X, y
        As in :func:`loss_along`.
    rho : float, default=0.05
        Distance, in the units of the weights. Frozen weights do not move.

    Returns
    -------
    sharpness : float
        Rise in the units of the loss. It is 0 if the gradient is 0.

    Raises
    ------
    TypeError, ValueError
        If `rho` is not a finite number >= 0.

    See Also
    --------
    braindecode_sam.SAMCallback : Record the sharpness of training batches.
    loss_along : Evaluate the loss along any direction.

    Notes
    -----
    For a loss :math:`L` with the gradient :math:`g` at the weights :math:`w`, it is

    .. math::

        L\left(w + \rho \, \frac{g}{\lVert g \rVert}\right) - L(w)

    References
    ----------
    .. [1] P. Foret, A. Kleiner, H. Mobahi, B. Neyshabur. "Sharpness-Aware Minimization
       for Efficiently Improving Generalization", ICLR 2021.
       https://doi.org/10.48550/arXiv.2010.01412

    Examples
    --------
    >>> import numpy as np, torch
    >>> from skorch import NeuralNetRegressor
    >>> from braindecode_sam.landscape import sharpness
    >>> net = NeuralNetRegressor(
    ...     torch.nn.Linear, module__in_features=1,
    ...     module__out_features=1, module__bias=False).initialize()
    >>> with torch.no_grad():
    ...     _ = net.module_.weight.fill_(2.0)
    >>> X = y = np.ones((4, 1), dtype=np.float32)
    >>> sharpness(net, X, y, rho=1.0)
    3.0
    """
    check_non_negative("rho", rho)
    gradient = _gradient(net, X, y)
    norm = torch.stack([g.norm() for g in gradient]).norm()
    scale = 0.0 if norm == 0 else rho / float(norm)
    before, after = loss_along(net, X, y, gradient, [0.0, scale])
    return after - before


def _losses(net: Any, X: Any, y: Any) -> Iterator[tuple[torch.Tensor, int]]:
    """Yield the loss of each batch in evaluation mode, and its number of windows."""
    net.module_.eval()  # skorch sets the mode before each training step
    for Xi, yi in net.get_iterator(net.get_dataset(X, y), training=False):
        predicted = net.infer(Xi)
        if predicted.numel() == yi.numel():  # as EEGRegressor.fit does
            yi = yi.reshape(predicted.shape)
        yield net.get_loss(predicted, yi, X=Xi, training=False), len(yi)


def _gradient(net: Any, X: Any, y: Any) -> list[torch.Tensor]:
    """Return the gradient of the mean loss, which is 0 for frozen weights."""
    params = list(net.module_.parameters())
    total = {p: torch.zeros_like(p) for p in params}
    trainable = [p for p in params if p.requires_grad]
    with torch.enable_grad():
        for loss, size in _losses(net, X, y):
            if not loss.requires_grad:  # it depends only on frozen weights
                continue
            parts = torch.autograd.grad(
                size * loss, trainable, allow_unused=True, materialize_grads=True
            )
            for param, part in zip(trainable, parts, strict=True):
                total[param] += part
    return [total[p] / len(y) for p in params]
