"""AE-SAM, which perturbs only where the gradient is large."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch

from braindecode_sam._arguments import check_below_one, check_number, check_positive
from braindecode_sam.optim.sam import (
    SAM,
    BaseOptimizer,
    Check,
    dense_gradient,
    joint_norm,
    norm,
)

MOMENTS = ("squared_norm_mean", "squared_norm_variance")


def _optional(check: Check) -> Check:
    return lambda name, value: None if value is None else check(name, value)


class AESAM(SAM):
    r"""Adaptive policy to Employ SAM, with one or two passes per step.

    AE-SAM [1]_ makes the second pass only where the loss is sharp. The squared norm of
    the gradient serves as a proxy for sharpness. It is compared with its own moving
    average.

    Parameters
    ----------
    params, base_optimizer, **options
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

    Raises
    ------
    TypeError, ValueError
        As SAM, and if an argument is out of its range, or `lambda_1` is given
        without `total_steps`.

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

    **Mean and variance** are those of steps with a finite norm and a radius. They are
    saved in the parameter groups. The options are those of the whole optimizer: those
    of the first group count.

    **Accelerators.** The decision depends on the value of the norm. Each step therefore
    waits for the device once.

    **Clipping.** The norm is that of the gradients as the closure leaves them. A limit
    that is always reached leaves nothing to decide on.

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

    _options = SAM._options | {
        "lambda_1": _optional(check_number),
        "lambda_2": check_number,
        "total_steps": _optional(check_positive),
        "delta": check_below_one,
    }
    _initial = SAM._initial | dict.fromkeys(MOMENTS, 0.0)

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
        options |= {"lambda_1": lambda_1, "lambda_2": lambda_2}
        options |= {"total_steps": total_steps, "delta": delta}
        super().__init__(params, base_optimizer, **options)

    def _check_options(self, groups: Iterable[dict[str, Any]]) -> None:
        super()._check_options(groups)
        for group in groups:
            if self._option(group, "lambda_1") is not None:
                accepted = "the number of steps, with lambda_1"
                check_positive(
                    "total_steps", self._option(group, "total_steps"), accepted
                )

    def _should_perturb(self) -> bool:
        if not super()._should_perturb():
            return False
        grads = [dense_gradient(p) for p in self._params() if p.grad is not None]
        n = float(joint_norm([norm(g) for g in grads])) ** 2
        if not math.isfinite(n):
            return False
        delta, mean, variance = map(self._shared, ("delta", *MOMENTS))
        mean = delta * mean + (1 - delta) * n
        variance = delta * variance + (1 - delta) * (n - mean) ** 2
        # Stored after both passes, since a pass that raises must not change them.
        self._scratch |= zip(MOMENTS, (mean, variance), strict=True)
        last, c, total = map(self._shared, ("lambda_1", "lambda_2", "total_steps"))
        if last is not None:
            c += (last - c) * min(self.n_steps / total, 1.0)
        return n >= mean + c * math.sqrt(variance)

    def _descend(self) -> None:
        super()._descend()
        for name, value in self._scratch.items():
            self._share(name, value)
