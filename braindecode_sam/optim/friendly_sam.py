"""Friendly SAM, which perturbs along the noise of the batch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from braindecode_sam._arguments import check_below_one, check_non_negative
from braindecode_sam.optim.sam import SAM, BaseOptimizer, dense_gradient

MEAN = "sam__mean_gradient"


class FriendlySAM(SAM):
    r"""Friendly Sharpness-Aware Minimization, with two passes per step.

    The gradient of a batch is the sum of the full gradient and of noise that is
    specific to the batch. The noise is what makes SAM's perturbation effective [1]_.
    Friendly SAM therefore subtracts an estimate of the full gradient, the moving
    average of the gradients, before it perturbs the weights.

    Parameters
    ----------
    params, base_optimizer, **options
        As for :class:`~braindecode_sam.SAM`.
    sigma : float, default=1.0
        Factor of the moving average that is subtracted, at least 0. With 0, it is SAM.
        A parameter group may set its own.
    lmbda : float, default=0.9
        Decay of the moving average, at least 0 and less than 1. A parameter group may
        set its own.

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
    schedule of `rho`) and whose gradients are finite, for parameters with a gradient in
    both passes. It is saved with the optimizer's state.

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

    _options = SAM._options | {
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

    def _direction(self, p: Tensor, group: dict[str, Any]) -> Tensor | None:
        g = dense_gradient(p)
        if g is None:
            return None
        m = self.state.get(p, {}).get(MEAN, torch.zeros_like(g))
        lmbda, sigma = self._option(group, "lmbda"), self._option(group, "sigma")
        self._scratch[p] = m, lmbda * m + (1 - lmbda) * g
        return g - sigma * m

    def _descend(self) -> None:
        super()._descend()
        while self._scratch:  # which frees memory as it goes
            p, (m, new) = self._scratch.popitem()
            if p.grad is not None and self.last_grad_norm is not None:
                valid = self.last_grad_norm.to(p.device).isfinite()
                self.state[p][MEAN] = torch.where(valid, new, m)
