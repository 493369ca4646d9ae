"""GSAM, which also minimizes the gap between the perturbed and the clean loss."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from braindecode_sam._arguments import check_non_negative
from braindecode_sam.optim._two_gradients import TwoGradientSAM, quotient
from braindecode_sam.optim.sam import SAM, BaseOptimizer


class GSAM(TwoGradientSAM):
    r"""Surrogate Gap Guided Sharpness-Aware Minimization, with two passes per step.

    The surrogate gap, the perturbed minus the clean loss, measures sharpness. GSAM [1]_
    descends along the perturbed gradient as SAM does. It also ascends along
    the component of the clean gradient that is orthogonal to it. To first order, this
    raises the clean loss without changing the perturbed one, and so closes the gap.

    Parameters
    ----------
    params, base_optimizer, **options
        As for :class:`~braindecode_sam.SAM`.
    alpha : float, default=0.4
        Weight of the clean gradient's orthogonal component, at least 0. With 0, it is
        SAM. A parameter group may set its own.

    Notes
    -----
    **Update rule.** With :math:`g = \nabla L(w)` and :math:`g_p = \nabla L(w +
    \epsilon)` as in SAM, a step computes (Algorithm 1 of [1]_)

    .. math::

        g_\parallel &= \frac{\langle g, g_p \rangle}{\lVert g_p \rVert^2} \, g_p \\
        d &= g_p - \alpha \, (g - g_\parallel) \\
        w &\leftarrow B(w, d)

    The paper also lets `rho` follow the learning rate. Pass a callable as the `rho` of
    :class:`~braindecode_sam.SAMCallback` for such a schedule.

    **Clipping** in the closure acts on both gradients, before they are combined.

    References
    ----------
    .. [1] J. Zhuang, B. Gong, L. Yuan, Y. Cui, H. Adam, N. Dvornek, S. Tatikonda, J.
       Duncan, T. Liu. "Surrogate Gap Minimization Improves Sharpness-Aware Training",
       ICLR 2022. https://doi.org/10.48550/arXiv.2203.08065

    Examples
    --------
    >>> import torch
    >>> from braindecode_sam.optim import GSAM
    >>> model = torch.nn.Linear(2, 1)
    >>> optimizer = GSAM(
    ...     model.parameters(), torch.optim.SGD, lr=0.1, alpha=0.2)
    """

    _options = SAM._options | {"alpha": check_non_negative}

    def __init__(
        self,
        params: Iterable[Any],
        base_optimizer: BaseOptimizer = torch.optim.AdamW,
        *,
        alpha: float = 0.4,
        **options: Any,
    ) -> None:
        super().__init__(params, base_optimizer, alpha=alpha, **options)

    def _factors(
        self, group: dict[str, Any], g_g: Tensor, g_gp: Tensor, gp_gp: Tensor
    ) -> tuple[Any, Any]:
        alpha = self._option(group, "alpha")
        return -alpha, 1 + alpha * quotient(g_gp, gp_gp)
