"""Friendly SAM, which perturbs along the noise of the batch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import torch

from braindecode_sam._arguments import check_below_one, check_non_negative
from braindecode_sam.optim._checks import BaseOptimizer, Check
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
    r"""Friendly Sharpness-Aware Minimization, with two passes per step.

    The gradient of a batch is the sum of the full gradient and of noise that is
    specific to the batch. The noise is what makes SAM's perturbation effective [1]_.
    Friendly SAM therefore subtracts an estimate of the full gradient, the moving
    average of the gradients, before it perturbs the weights.

    Parameters
    ----------
    params, base_optimizer
        As for :class:`~braindecode_sam.SAM`.
    sigma : float, default=1.0
        Factor of the moving average that is subtracted. With 0, it is SAM. A
        parameter group may set its own.
    lmbda : float, default=0.9
        Decay of the moving average, at least 0 and less than 1. A parameter group may
        set its own.
    **options
        Options of :class:`~braindecode_sam.SAM` and of the base optimizer.

    Raises
    ------
    TypeError, ValueError
        As :class:`~braindecode_sam.SAM`, and if `sigma` or `lmbda` is out of its range.

    See Also
    --------
    braindecode_sam.SAM : Base class, with all options that it takes.
    braindecode_sam.SAMCallback : Schedule rho and record the sharpness in skorch.

    Notes
    -----
    **Update rule.** With a moving average :math:`m` that starts at 0, a step computes

    .. math::

        g &= \nabla L(w) \\
        d &= g - \sigma m \\
        g_p &= \nabla L\left(w + \rho \, d / \lVert d \rVert\right) \\
        m &\leftarrow \lambda m + (1 - \lambda) g \\
        w &\leftarrow B(w, g_p)

    ``adaptive=True`` rescales :math:`d` as SAM rescales :math:`g`.

    **Published implementations differ.** Algorithm 1 of [1]_ updates :math:`m` before
    it is subtracted, the authors' code afterwards. This implementation follows the
    code, so that :math:`m` contains nothing of the current batch.

    **Moving average.** It is updated in steps that are perturbed (`interval`, a
    schedule of `rho`) and whose gradients are finite. It is saved with the optimizer's
    state.

    References
    ----------
    .. [1] T. Li, P. Zhou, Z. He, X. Cheng, X. Huang. "Friendly Sharpness-Aware
       Minimization", CVPR 2024. https://doi.org/10.48550/arXiv.2403.12350

    Examples
    --------
    >>> import torch
    >>> from braindecode_sam.optim import FriendlySAM
    >>> model = torch.nn.Linear(2, 1)
    >>> optimizer = FriendlySAM(
    ...     model.parameters(), torch.optim.SGD, lr=0.1, sigma=0.5)
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
        """Leave the perturbed gradients unchanged and allocate the average."""
        self._reserve(MEAN, groups)

    def _base_step(self) -> None:
        super()._base_step()
        # Only after both passes, since a pass that raises must not change the average.
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
