"""Momentum-SAM, which perturbs along the momentum and needs no second pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from braindecode_sam.optim._checks import BaseOptimizer, is_zero_redundancy
from braindecode_sam.optim._flat import FlatGroup, Tensors
from braindecode_sam.optim._options import Options
from braindecode_sam.optim.sam import SAM, Loss, detached

MOMENTA = ("momentum_buffer", "exp_avg")


class MomentumSAM(SAM):
    r"""Momentum-SAM, with one pass per step.

    Momentum-SAM [1]_ perturbs the weights along the momentum that the base optimizer
    keeps in any case. A step then makes only the perturbed pass.

    Parameters
    ----------
    params, base_optimizer
        As for :class:`~braindecode_sam.SAM`. The base optimizer must keep a momentum.
        SGD and RMSprop do with ``momentum``, the Adam family does by default.
    **options
        Options of :class:`~braindecode_sam.SAM` and of the base optimizer.

    Raises
    ------
    TypeError, ValueError
        As SAM, and if the base optimizer keeps no momentum, or if each process
        keeps only a part of it (``ZeroRedundancyOptimizer``).

    See Also
    --------
    braindecode_sam.SAM : Base class, with all options that it takes.
    braindecode_sam.SAMCallback : Schedule rho and record the sharpness in skorch.

    Notes
    -----
    **Update rule.** With the momentum :math:`v` of the base optimizer, which starts at
    0, a step computes (Algorithm 1 of [1]_)

    .. math::

        \epsilon &= - \rho \, \frac{v}{\lVert v \rVert} \\
        g_p &= \nabla L(w + \epsilon) \\
        w &\leftarrow B(w, g_p)

    :math:`B` also updates :math:`v`. With ``adaptive=True``, it is :math:`\epsilon =
    - \rho \, T^2 v / \lVert T v \rVert`, with :math:`T` as in SAM.

    **Published implementations differ** in two respects. The sign is the paper's:
    :math:`\epsilon` points in the direction of the last steps, as in Nesterov's method.
    Some implementations add :math:`\rho \, v / \lVert v \rVert` instead. The paper's
    algorithm, and code that follows it, leaves the weights perturbed between steps, so
    that validation and checkpoints use perturbed weights. Here they are restored in
    every step.

    **No pass at the unperturbed weights.** ``step`` returns the loss at :math:`w +
    \epsilon`, normalization layers compute their statistics there, and
    ``last_perturbed_loss`` stays None. Gradients that are clipped in the closure are
    clipped once, as without SAM.

    References
    ----------
    .. [1] M. Becker, F. Altrock, B. Risse. "Momentum-SAM: Sharpness Aware Minimization
       without Computational Overhead", 2024.
       https://doi.org/10.48550/arXiv.2401.12033

    Examples
    --------
    >>> import torch
    >>> from braindecode_sam.optim import MomentumSAM
    >>> model = torch.nn.Linear(2, 1)
    >>> optimizer = MomentumSAM(
    ...     model.parameters(), torch.optim.SGD, lr=0.1, momentum=0.9)
    """

    def __init__(
        self,
        params: Iterable[Any],
        base_optimizer: BaseOptimizer = torch.optim.AdamW,
        **options: Any,
    ) -> None:
        super().__init__(params, base_optimizer, **options)
        self._check_momentum(self.param_groups)
        if is_zero_redundancy(self.base_optimizer):
            raise ValueError(
                "MomentumSAM cannot perturb along momenta that are sharded across"
                " processes, as in a ZeroRedundancyOptimizer; expected a base"
                " optimizer such as torch.optim.AdamW, or another SAM."
            )

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group.

        Parameters
        ----------
        param_group : dict
            As for :class:`~braindecode_sam.SAM`.

        Raises
        ------
        ValueError
            If the base optimizer keeps no momentum for the group.
        """
        super().add_param_group(param_group)
        self._check_momentum(self.param_groups[-1:])

    def _check_momentum(self, groups: Iterable[Options]) -> None:
        for group in groups:
            if not (group.base.get("momentum") or "betas" in group.base):
                raise ValueError(
                    "MomentumSAM perturbs along the momentum of its base optimizer, but"
                    f" {type(self.base_optimizer).__name__} keeps none with these"
                    " options; expected, for instance, torch.optim.AdamW, or"
                    " torch.optim.SGD with momentum=0.9"
                )

    def _run_passes(self, run_pass: Callable[[], Loss]) -> Loss:
        self._begin_step()
        if not self._should_perturb():
            loss = run_pass()
        else:
            self._perturb()
            try:
                loss = run_pass()
            finally:
                self._unperturb()
        self.last_loss = detached(loss)
        return loss

    def _with_direction(self, params: Iterable[Tensor]) -> list[Tensor]:
        return [p for p in params if self._momentum(p) is not None]

    def _ascent_direction(self, group: FlatGroup) -> Tensors:
        momenta = map(self._momentum, group.params)
        v = group.plain([m for m in momenta if m is not None])
        # perturb() reverses the direction if the base maximizes. A momentum is already
        # that of the negated gradient.
        is_descent = not group.options.base.get("maximize")
        return list(torch._foreach_neg(v)) if is_descent else v

    def _momentum(self, param: Tensor) -> Tensor | None:
        state = self.state.get(param, {})
        momenta = (state.get(name) for name in MOMENTA)
        return next((m for m in momenta if m is not None), None)
