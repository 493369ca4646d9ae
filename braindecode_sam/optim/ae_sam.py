"""AE-SAM, which perturbs only where the gradient is large."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, ClassVar

import torch

from braindecode_sam._arguments import (
    check_below_one,
    check_number,
    check_positive,
)
from braindecode_sam.optim.sam import (
    SAM,
    BaseOptimizer,
    Check,
    dense_gradient,
    joint_norm,
    norm,
)


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

    _options: ClassVar[dict[str, Check]] = {
        **SAM._options,
        "lambda_1": lambda name, value: value is None or check_number(name, value),
        "lambda_2": check_number,
        "total_steps": lambda name, value: value is None or check_positive(name, value),
        "delta": check_below_one,
    }
    _initial: ClassVar[dict[str, Any]] = {
        **SAM._initial,
        "squared_norm_mean": 0.0,
        "squared_norm_variance": 0.0,
    }

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
        if lambda_1 is not None:
            check_positive(
                "total_steps", total_steps, "the number of steps, with lambda_1"
            )
        options |= {"lambda_1": lambda_1, "lambda_2": lambda_2}
        options |= {"total_steps": total_steps, "delta": delta}
        super().__init__(params, base_optimizer, **options)

    def _should_perturb(self) -> bool:
        if not super()._should_perturb():
            return False
        gradients = map(dense_gradient, self._params())
        n = float(joint_norm([norm(g) for g in gradients if g is not None])) ** 2
        if not math.isfinite(n):
            return False
        group = self.param_groups[0]
        delta = self._option(group, "delta")
        mean = delta * self._option(group, "squared_norm_mean") + (1 - delta) * n
        variance = delta * self._option(group, "squared_norm_variance")
        variance += (1 - delta) * (n - mean) ** 2
        # Set after both passes, since a pass that raises must not change them.
        self._scratch["moments"] = {
            self._keys["squared_norm_mean"]: mean,
            self._keys["squared_norm_variance"]: variance,
        }
        return n >= mean + self._threshold(group) * math.sqrt(variance)

    def _threshold(self, group: dict[str, Any]) -> float:
        first = self._option(group, "lambda_2")
        last, total = (self._option(group, n) for n in ("lambda_1", "total_steps"))
        if last is None:
            return first
        return first + (last - first) * min(self.n_steps / total, 1.0)

    def _descend(self) -> None:
        super()._descend()
        for group in self.param_groups:
            group.update(self._scratch.get("moments", {}))
