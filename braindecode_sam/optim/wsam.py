r"""WSAM: weigh the sharpness against the loss.

With g = grad L(w) and g_p = grad L(w + epsilon), a step of :class:`SAM` descends along
g_p; this one along the gradient of L + a (L_perturbed - L)::

    a = gamma / (1 - gamma)
    d = (1 - a) g + a g_p
    w = B(w, d)

gamma = 0 is the base optimizer, 0.5 is SAM, more stresses the sharpness.

Yue et al.: Sharpness-Aware Minimization Revisited: Weighted Sharpness as a
Regularization Term, KDD 2023. The paper also has a "decoupled" form, the default of
some implementations, which steps along a (g_p - g) past the base optimizer; this is its
objective's gradient, through the base optimizer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import torch

from braindecode_sam.optim._checks import BaseOptimizer, Check, check_below_one
from braindecode_sam.optim._flat import FlatGroup
from braindecode_sam.optim._two_gradients import (
    TwoGradientSAM,
    clean_gradients,
    combine,
    dot,
    gradients,
)
from braindecode_sam.optim.sam import SAM


class WSAM(TwoGradientSAM):
    """Weighted Sharpness-Aware Minimization, two passes a step.

    Parameters
    ----------
    params, base_optimizer
        As for :class:`SAM`.
    gamma : float, default=0.9
        Weight of the sharpness, at least 0 and less than 1. A parameter group may set
        its own.
    **options
        Of :class:`SAM` and of the base optimizer.

    Raises
    ------
    TypeError, ValueError
        As :class:`SAM`, and if gamma is not such a number.

    Notes
    -----
    Gradients that are clipped in the closure (skorch's ``GradientNormClipping``) are
    clipped separately before they are combined; with the default gamma the result,
    9 g_p - 8 g, can be much longer than either.

    Examples
    --------
    >>> import torch
    >>> from braindecode_sam.optim import WSAM
    >>> model = torch.nn.Linear(2, 1)
    >>> optimizer = WSAM(model.parameters(), torch.optim.SGD, lr=0.1, gamma=0.8)
    """

    _group_options: ClassVar[dict[str, Check]] = {
        **SAM._group_options,
        "gamma": check_below_one,
    }

    def __init__(
        self,
        params: Iterable[Any],
        base_optimizer: BaseOptimizer = torch.optim.AdamW,
        *,
        gamma: float = 0.9,
        **options: Any,
    ) -> None:
        super().__init__(params, base_optimizer, gamma=gamma, **options)

    def _combine(self, groups: Sequence[FlatGroup]) -> None:
        g, g_p = clean_gradients(groups), gradients(groups)
        valid = torch.isfinite(dot(groups, g, g) + dot(groups, g_p, g_p))
        for group in groups:
            a = group.options["gamma"] / (1 - group.options["gamma"])
            combine(group, a, 1 - a, valid)
