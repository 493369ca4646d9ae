"""LookSAM, which makes a second pass on every k-th step and reuses its result."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from braindecode_sam._arguments import check_non_negative
from braindecode_sam.optim._two_gradients import TwoGradientSAM, on_device, quotient
from braindecode_sam.optim.sam import SAM, BaseOptimizer

ACROSS = "sam__gradient_across"


class LookSAM(TwoGradientSAM):
    r"""LookSAM, with 1 + 1 / interval passes per step.

    The component of the perturbed gradient that is orthogonal to the clean one points
    to flatter regions and changes slowly [1]_. LookSAM computes it on every k-th step
    and reuses it in the steps between.

    Parameters
    ----------
    params, base_optimizer, **options
        As for :class:`~braindecode_sam.SAM`.
    interval : int, default=5
        Make a second pass on every `interval`-th step (k), starting with the first.
    alpha : float, default=0.7
        Weight of the reused component, at least 0. A parameter group may set its own.

    Notes
    -----
    **Update rule** (Algorithm 1 of [1]_), with :math:`g` and :math:`g_p` as in
    :class:`~braindecode_sam.SAM`. On every k-th step,

    .. math::

        g_v &= g_p - \frac{\langle g, g_p \rangle}{\lVert g \rVert^2} \, g \\
        w &\leftarrow B(w, g_p)

    In the other steps, with one pass,

    .. math::

        w \leftarrow B\left(
            w, \; g + \alpha \frac{\lVert g \rVert}{\lVert g_v \rVert} \, g_v\right)

    **Published implementations differ.** Here, norms and products are those of the
    vector of all parameters, as in the paper. The authors' code, and others that follow
    it, compute them for each tensor separately.

    **State.** :math:`g_v` is saved with the optimizer's state.

    **Clipping** in the closure acts before gradients are combined. The result can
    exceed the limit by a factor of up to :math:`1 + \alpha`.

    References
    ----------
    .. [1] Y. Liu, S. Mai, X. Chen, C.-J. Hsieh, Y. You. "Towards Efficient and Scalable
       Sharpness-Aware Minimization", CVPR 2022.
       https://doi.org/10.48550/arXiv.2203.02714

    Examples
    --------
    >>> import torch
    >>> from braindecode_sam.optim import LookSAM
    >>> model = torch.nn.Linear(2, 1)
    >>> optimizer = LookSAM(
    ...     model.parameters(), torch.optim.SGD, lr=0.1, interval=10)
    """

    _options = SAM._options | {"alpha": check_non_negative}

    def __init__(
        self,
        params: Iterable[Any],
        base_optimizer: BaseOptimizer = torch.optim.AdamW,
        *,
        interval: int = 5,
        alpha: float = 0.7,
        **options: Any,
    ) -> None:
        options |= {"interval": interval, "alpha": alpha}
        super().__init__(params, base_optimizer, **options)

    def _combine(self) -> None:
        is_on = any(self._option(group, "rho") for group in self.param_groups)
        if is_on and not self._clean:  # a step with one pass: g_v is in the place of g
            for p in self._params():
                if p.grad is not None and ACROSS in self.state.get(p, {}):
                    self._clean[p] = self.state[p][ACROSS]
        super()._combine()

    def _factors(
        self, group: dict[str, Any], g_g: Tensor, g_gp: Tensor, gp_gp: Tensor
    ) -> tuple[Any, Any]:
        if self.last_grad_norm is None:  # of g_v and g
            return self._option(group, "alpha") * quotient(gp_gp, g_g).sqrt(), 1
        along = quotient(g_gp, g_g)
        for p in self._clean.keys() & group["params"]:
            factor = on_device(p, along)
            g_v = p.grad - factor * self._clean[p]
            g_v = torch.where(factor.isfinite(), g_v, 0)
            self._scratch.setdefault("across", {})[p] = g_v
        return 0, 1

    def _descend(self) -> None:
        super()._descend()
        for p, across in self._scratch.get("across", {}).items():
            self.state[p][ACROSS] = across
