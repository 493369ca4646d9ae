"""WSAM, which weights the sharpness against the loss."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from braindecode_sam._arguments import check_below_one
from braindecode_sam.optim._two_gradients import TwoGradientSAM
from braindecode_sam.optim.sam import SAM, BaseOptimizer


class WSAM(TwoGradientSAM):
    r"""Weighted Sharpness-Aware Minimization, with two passes per step.

    WSAM [1]_ treats the sharpness, the perturbed minus the clean loss, as a
    regularization term with a weight.

    Parameters
    ----------
    params, base_optimizer, **options
        As for :class:`~braindecode_sam.SAM`.
    gamma : float, default=0.7
        Weight of the sharpness, at least 0 and less than 1. With 0, it is the base
        optimizer, with 0.5 it is SAM. Values near 1 can keep a model from learning. A
        parameter group may set its own.

    Notes
    -----
    **Update rule.** With :math:`g = \nabla L(w)` and :math:`g_p = \nabla L(w +
    \epsilon)` as in :class:`~braindecode_sam.SAM`, a step computes

    .. math::

        a &= \frac{\gamma}{1 - \gamma} \\
        d &= (1 - a) \, g + a \, g_p \\
        w &\leftarrow B(w, d)

    where :math:`d` is the gradient of :math:`L(w) + a \, (L(w + \epsilon) - L(w))`.

    **Published implementations differ.** The paper also has a decoupled form, the
    default of some implementations. It adds a step along :math:`a \, (g_p - g)` that
    bypasses the base optimizer. In this implementation the whole gradient passes
    through the base optimizer.

    **Clipping** in the closure acts on both gradients, before they are combined. With
    ``gamma=0.9``, the result :math:`9 g_p - 8 g` can be much longer than either.

    References
    ----------
    .. [1] Y. Yue, J. Jiang, Z. Ye, N. Gao, Y. Liu, K. Zhang. "Sharpness-Aware
       Minimization Revisited: Weighted Sharpness as a Regularization Term", KDD 2023.
       https://doi.org/10.48550/arXiv.2305.15817

    Examples
    --------
    >>> import torch
    >>> from braindecode_sam.optim import WSAM
    >>> model = torch.nn.Linear(2, 1)
    >>> optimizer = WSAM(
    ...     model.parameters(), torch.optim.SGD, lr=0.1, gamma=0.8)
    """

    _options = SAM._options | {"gamma": check_below_one}

    def __init__(
        self,
        params: Iterable[Any],
        base_optimizer: BaseOptimizer = torch.optim.AdamW,
        *,
        gamma: float = 0.7,
        **options: Any,
    ) -> None:
        super().__init__(params, base_optimizer, gamma=gamma, **options)

    def _factors(self, group: dict[str, Any], *products: Tensor) -> tuple[Any, Any]:
        gamma = self._option(group, "gamma")
        a = gamma / (1 - gamma)
        return 1 - a, a
