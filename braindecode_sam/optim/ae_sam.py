"""AE-SAM, which perturbs only where the gradient is large."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, ClassVar

import torch

from braindecode_sam._arguments import (
    check_below_one,
    check_non_negative,
    check_number,
    check_positive,
)
from braindecode_sam.optim._checks import BaseOptimizer, Check
from braindecode_sam.optim._flat import flat_groups, with_gradient
from braindecode_sam.optim._two_gradients import dot, gradients
from braindecode_sam.optim.sam import SAM


class AESAM(SAM):
    r"""Adaptive policy to Employ SAM, with one or two passes per step.

    AE-SAM [1]_ makes the second pass only where the loss is sharp. The squared norm of
    the gradient serves as a proxy for sharpness. It is compared with its own moving
    average.

    Parameters
    ----------
    params, base_optimizer
        As for :class:`~braindecode_sam.SAM`.
    lambda_1 : float or None, default=None
        Threshold after `total_steps`, in standard deviations of the squared norm above
        its mean. None keeps the threshold at `lambda_2`. The paper decreases it from 1
        to -1.
    lambda_2 : float, default=0.0
        Threshold in the first step, in the same unit. It may be negative.
    total_steps : int or None, default=None
        Number of steps of the whole training. Needed only with `lambda_1`.
    delta : float, default=0.9
        Decay of the moving mean and variance, at least 0 and less than 1.
    **options
        Options of :class:`~braindecode_sam.SAM` and of the base optimizer.

    Raises
    ------
    TypeError, ValueError
        As SAM, and if an argument is out of its range, or `lambda_1` is given
        without `total_steps`.

    See Also
    --------
    braindecode_sam.SAM : Base class, with all options that it takes.
    braindecode_sam.SAMCallback : Schedule rho and record the sharpness in skorch.
    braindecode_sam.optim.LookSAM : Makes a second pass at fixed intervals.

    Notes
    -----
    **Update rule.** With the decay :math:`\delta`, and a mean :math:`\mu` and a
    variance :math:`s` that start at 0, a step is (Algorithm 1 of [1]_)

    .. code-block:: none

        g, n = grad L(w), ||g||^2
        mu   = delta mu + (1 - delta) n
        s    = delta s + (1 - delta) (n - mu)^2
        if n >= mu + c_t sqrt(s):
            g_p = grad L(w + rho g / ||g||)     second pass, as in SAM
        else:
            g_p = g
        w    = B(w, g_p)

    In step :math:`t` of `total_steps` :math:`T`, the threshold is

    .. math:: c_t = \lambda_2 + (\lambda_1 - \lambda_2) \min(t / T, 1)

    **Non-finite norms** lead to no second pass and update neither mean nor variance.
    Both are saved with the optimizer's state.

    **Accelerators.** The decision depends on the value of the norm. Each step therefore
    waits for the device once.

    **Clipping.** If gradients are clipped in the closure (skorch's
    ``GradientNormClipping``), the norm is that of the clipped gradient. A limit that is
    always reached leaves nothing to decide on.

    References
    ----------
    .. [1] W. Jiang, H. Yang, Y. Zhang, J. Kwok. "An Adaptive Policy to Employ
       Sharpness-Aware Minimization", ICLR 2023.
       https://doi.org/10.48550/arXiv.2304.14647

    Examples
    --------
    >>> import torch
    >>> from braindecode_sam.optim import AESAM
    >>> model = torch.nn.Linear(2, 1)
    >>> optimizer = AESAM(
    ...     model.parameters(), lr=1e-3,
    ...     lambda_1=-1, lambda_2=1, total_steps=900)
    """

    _group_options: ClassVar[dict[str, Check]] = {
        **SAM._group_options,
        "squared_norm_mean": check_non_negative,
        "squared_norm_variance": check_non_negative,
    }
    _initial_values: ClassVar[dict[str, Any]] = {
        **SAM._initial_values,
        "squared_norm_mean": 0.0,
        "squared_norm_variance": 0.0,
    }
    _optimizer_options: ClassVar[tuple[str, ...]] = (
        *SAM._optimizer_options,
        "lambda_1",
        "lambda_2",
        "total_steps",
        "delta",
    )

    def __init__(
        self,
        params: Iterable[Any],
        base_optimizer: BaseOptimizer = torch.optim.AdamW,
        *,
        lambda_1: float | None = None,
        lambda_2: float = 0.0,
        total_steps: int | None = None,
        delta: float = 0.9,
        **options: Any,
    ) -> None:
        check_number("lambda_2", lambda_2)
        check_below_one("delta", delta)
        if lambda_1 is not None:
            check_number("lambda_1", lambda_1)
            check_positive(
                "total_steps", total_steps, "the number of steps, with lambda_1"
            )
        self.lambda_1, self.lambda_2 = lambda_1, lambda_2
        self.total_steps, self.delta = total_steps, delta
        super().__init__(params, base_optimizer, **options)

    def _begin_step(self) -> None:
        super()._begin_step()
        self._new_moments: dict[str, float] = {}

    def _needs_second_pass(self) -> bool:
        groups = [
            new
            for group in self.param_groups
            for new in flat_groups(group, with_gradient(group["params"]))
        ]
        g = gradients(groups)
        size = float(dot(groups, g, g)) if groups else 0.0
        if not math.isfinite(size):
            return False
        moments = self.param_groups[0]
        mean = self._updated(moments["squared_norm_mean"], size)
        variance = self._updated(moments["squared_norm_variance"], (size - mean) ** 2)
        self._new_moments = {
            "squared_norm_mean": mean,
            "squared_norm_variance": variance,
        }
        return size >= mean + self._threshold() * math.sqrt(variance)

    def _base_step(self) -> None:
        super()._base_step()
        # Only after both passes, since a pass that raises must not change the moments.
        for group in self.param_groups:
            group.own.update(self._new_moments)

    def _updated(self, average: float, value: float) -> float:
        return self.delta * average + (1 - self.delta) * value

    def _threshold(self) -> float:
        if self.lambda_1 is None or self.total_steps is None:
            return self.lambda_2
        progress = min(self.n_steps / self.total_steps, 1.0)
        return self.lambda_2 + (self.lambda_1 - self.lambda_2) * progress
