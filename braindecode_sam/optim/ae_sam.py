r"""AE-SAM: SAM only where the loss is sharp.

The squared gradient norm n serves as a proxy for sharpness. It is compared with its own
moving mean mu and variance s (both 0 at first)::

    g, n = grad L(w), ||g||^2
    mu   = delta mu + (1 - delta) n
    s    = delta s + (1 - delta) (n - mu)^2
    if n >= mu + c_t sqrt(s):   as SAM, g_p by a second pass
    else:                       g_p = g, one pass
    w    = B(w, g_p)

with c_t going linearly from lambda_2 to lambda_1 in total_steps steps, then staying.

Jiang, Yang, Zhang, Kwok: An Adaptive Policy to Employ Sharpness-Aware Minimization,
ICLR 2023 (Algorithm 1, AE-SAM).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, ClassVar

import torch

from braindecode_sam._arguments import (
    check_non_negative,
    check_number,
    check_positive,
)
from braindecode_sam.optim._checks import BaseOptimizer, Check, check_below_one
from braindecode_sam.optim._flat import flat_groups, with_gradient
from braindecode_sam.optim._two_gradients import dot, gradients
from braindecode_sam.optim.sam import SAM


class AESAM(SAM):
    """Adaptive policy to Employ SAM, one or two passes a step.

    Parameters
    ----------
    params, base_optimizer
        As for :class:`SAM`.
    lambda_1 : float or None, default=None
        How many standard deviations above the mean a squared norm must be after
        `total_steps`; None keeps it at lambda_2. The paper lets it fall from 1 to -1.
    lambda_2 : float, default=0.0
        The same in the first step; may be negative.
    total_steps : int or None, default=None
        Steps of the whole training; needed with `lambda_1` only.
    delta : float, default=0.9
        How much of the moving mean and variance stays, at least 0 and less than 1.
    **options
        Of :class:`SAM` and of the base optimizer.

    Raises
    ------
    TypeError, ValueError
        As :class:`SAM`, and if one of these is out of its range, or lambda_1 is given
        without total_steps.

    Notes
    -----
    A step decides on the norm's value, for which the host must wait on an accelerator.
    A norm that is not finite changes neither mean nor variance. Both are saved with
    the optimizer's state. Where gradients are clipped in the closure (skorch's
    ``GradientNormClipping``), the norm is the clipped one: with a limit that is
    always reached there is nothing left to decide on.

    Examples
    --------
    >>> import torch
    >>> from braindecode_sam.optim import AESAM
    >>> model = torch.nn.Linear(2, 1)
    >>> optimizer = AESAM(
    ...     model.parameters(), lr=1e-3, lambda_1=-1, lambda_2=1, total_steps=900)
    """

    _group_options: ClassVar[dict[str, Check]] = {
        **SAM._group_options,
        "squared_norm_mean": check_non_negative,
        "squared_norm_variance": check_non_negative,
    }
    _initially: ClassVar[dict[str, Any]] = {
        **SAM._initially,
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
        self._moved: dict[str, float] = {}

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
        known = self.param_groups[0]
        mean = self._move(known["squared_norm_mean"], size)
        variance = self._move(known["squared_norm_variance"], (size - mean) ** 2)
        self._moved = {"squared_norm_mean": mean, "squared_norm_variance": variance}
        return size >= mean + self._threshold() * math.sqrt(variance)

    def _base_step(self) -> None:
        super()._base_step()
        # Only now, after both passes: one that raises must leave the moments alone.
        for group in self.param_groups:
            group.own.update(self._moved)

    def _move(self, average: float, value: float) -> float:
        return self.delta * average + (1 - self.delta) * value

    def _threshold(self) -> float:
        if self.lambda_1 is None or self.total_steps is None:
            return self.lambda_2
        progress = min(self.n_steps / self.total_steps, 1.0)
        return self.lambda_2 + (self.lambda_1 - self.lambda_2) * progress
