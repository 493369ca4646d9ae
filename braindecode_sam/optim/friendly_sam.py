r"""Friendly SAM: ascend along what is peculiar to the batch.

The gradient of a batch is the full gradient and the batch's own noise; the noise is
what makes SAM's perturbation useful. With a moving average m of the clean gradients in
place of the full one, m = 0 at first::

    g       = grad L(w)
    d       = g - sigma m
    epsilon = rho * d / ||d||                   (adaptive as in SAM)
    g_p     = grad L(w + epsilon)
    m       = lambda m + (1 - lambda) g
    w       = B(w, g_p)

Li et al.: Friendly Sharpness-Aware Minimization, CVPR 2024 (Algorithm 1). The paper
updates m before it is subtracted, its authors' code after; here it is the code's order,
the old m, which holds nothing of the present batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import torch

from braindecode_sam._arguments import check_non_negative
from braindecode_sam.optim._checks import BaseOptimizer, Check, check_below_one
from braindecode_sam.optim._flat import FlatGroup, Tensors
from braindecode_sam.optim._two_gradients import (
    TwoGradientSAM,
    clean_gradients,
    dot,
    if_valid,
)
from braindecode_sam.optim.sam import SAM

MEAN = "sam__mean_gradient"


class FriendlySAM(TwoGradientSAM):
    """Friendly Sharpness-Aware Minimization, two passes a step.

    Parameters
    ----------
    params, base_optimizer
        As for :class:`SAM`.
    sigma : float, default=1.0
        How much of the moving average is taken away; with 0 it is :class:`SAM`. A
        parameter group may set its own.
    lmbda : float, default=0.9
        How much of the moving average stays from step to step, at least 0 and less
        than 1. A parameter group may set its own.
    **options
        Of :class:`SAM` and of the base optimizer.

    Raises
    ------
    TypeError, ValueError
        As :class:`SAM`, and if sigma or lmbda is not such a number.

    Notes
    -----
    The average moves in steps that are perturbed (`interval`, a schedule of rho), and
    in none whose gradients are not finite. It is saved with the optimizer's state.

    Examples
    --------
    >>> import torch
    >>> from braindecode_sam.optim import FriendlySAM
    >>> model = torch.nn.Linear(2, 1)
    >>> optimizer = FriendlySAM(model.parameters(), torch.optim.SGD, lr=0.1)
    """

    _group_options: ClassVar[dict[str, Check]] = {
        **SAM._group_options,
        "sigma": check_non_negative,
        "lmbda": check_below_one,
    }

    def __init__(
        self,
        params: Iterable[Any],
        base_optimizer: BaseOptimizer = torch.optim.AdamW,
        *,
        sigma: float = 1.0,
        lmbda: float = 0.9,
        **options: Any,
    ) -> None:
        super().__init__(params, base_optimizer, sigma=sigma, lmbda=lmbda, **options)

    def _ascent_direction(self, group: FlatGroup) -> Tensors:
        mean = self._known(MEAN, group)
        sigma = group.options["sigma"]
        return list(torch._foreach_sub(group.gradients(), mean, alpha=sigma))

    def _combine(self, groups: Sequence[FlatGroup]) -> None:
        """Descend along the perturbed gradients, as they are."""
        self._reserve(MEAN, groups)

    def _base_step(self) -> None:
        super()._base_step()
        # Only now, after both passes: one that raises must leave the average alone.
        if self._has_ascended and self._both:
            clean = clean_gradients(self._both)
            valid = torch.isfinite(dot(self._both, clean, clean))
            for group in self._both:
                self._move_average(group, valid)

    def _move_average(self, group: FlatGroup, valid: torch.Tensor) -> None:
        lmbda = group.options["lmbda"]
        mean = self._remembered(MEAN, group)
        group.flat_clean.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
        torch._foreach_mul_(mean, if_valid(valid, lmbda, 1.0, group))
        torch._foreach_mul_(group.clean, if_valid(valid, 1 - lmbda, 0.0, group))
        torch._foreach_add_(mean, group.clean)
