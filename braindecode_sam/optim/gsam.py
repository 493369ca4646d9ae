r"""GSAM: also shrink the gap between the perturbed and the clean loss.

With g = grad L(w) and g_p = grad L(w + epsilon), a step of :class:`SAM` descends along
g_p; this one along::

    g_parallel = (<g, g_p> / ||g_p||^2) g_p
    d          = g_p - alpha (g - g_parallel)
    w          = B(w, d)

Taking away g's component across g_p raises the clean loss where that does not change
the perturbed one, to first order: their gap, a measure of sharpness, shrinks.

Zhuang et al.: Surrogate Gap Minimization Improves Sharpness-Aware Training, ICLR 2022
(Algorithm 1). The paper also lets rho follow the learning rate, which
:class:`~braindecode_sam.SAMCallback` can do.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import torch

from braindecode_sam._arguments import check_non_negative
from braindecode_sam.optim._checks import BaseOptimizer, Check
from braindecode_sam.optim._flat import FlatGroup
from braindecode_sam.optim._two_gradients import (
    TwoGradientSAM,
    clean_gradients,
    combine,
    dot,
    gradients,
    quotient,
)
from braindecode_sam.optim.sam import SAM


class GSAM(TwoGradientSAM):
    """Surrogate Gap Guided Sharpness-Aware Minimization, two passes a step.

    Parameters
    ----------
    params, base_optimizer
        As for :class:`SAM`.
    alpha : float, default=0.4
        Weight of the clean gradient's component across the perturbed one; with 0 it is
        :class:`SAM`. A parameter group may set its own.
    **options
        Of :class:`SAM` and of the base optimizer.

    Raises
    ------
    TypeError, ValueError
        As :class:`SAM`, and if alpha is not a number >= 0.

    Notes
    -----
    Gradients that are clipped in the closure (skorch's ``GradientNormClipping``) are
    clipped separately before they are combined: the clean one too, which has no
    effect on :class:`SAM`.

    Examples
    --------
    >>> import torch
    >>> from braindecode_sam.optim import GSAM
    >>> model = torch.nn.Linear(2, 1)
    >>> optimizer = GSAM(model.parameters(), torch.optim.SGD, lr=0.1, alpha=0.2)
    """

    _group_options: ClassVar[dict[str, Check]] = {
        **SAM._group_options,
        "alpha": check_non_negative,
    }

    def __init__(
        self,
        params: Iterable[Any],
        base_optimizer: BaseOptimizer = torch.optim.AdamW,
        *,
        alpha: float = 0.4,
        **options: Any,
    ) -> None:
        super().__init__(params, base_optimizer, alpha=alpha, **options)

    def _combine(self, groups: Sequence[FlatGroup]) -> None:
        g, g_p = clean_gradients(groups), gradients(groups)
        g_p_squared = dot(groups, g_p, g_p)
        along = quotient(dot(groups, g, g_p), g_p_squared)
        valid = torch.isfinite(dot(groups, g, g) + g_p_squared)
        for group in groups:  # g_p - alpha (g - along g_p)
            alpha = group.options["alpha"]
            combine(group, 1 + alpha * along, -alpha, valid)
