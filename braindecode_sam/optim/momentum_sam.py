"""Momentum-SAM, which perturbs along the momentum and needs no second pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from torch import Tensor

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
        As SAM, and if the base optimizer keeps no momentum.

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

    def _check_options(self, groups: Iterable[dict[str, Any]]) -> None:
        super()._check_options(groups)
        if not all(group.get("momentum") or "betas" in group for group in groups):
            self._refuse_base()

    def _refuse_base(self) -> NoReturn:
        raise ValueError(
            "MomentumSAM perturbs along the momentum of its base optimizer, but"
            f" {type(self.base_optimizer).__name__} keeps none with these options;"
            " expected, for instance, torch.optim.AdamW, or torch.optim.SGD with"
            " momentum=0.9"
        )

    def _run_passes(self, run_pass: Callable[[], Loss]) -> Loss:
        if perturbs := self._should_perturb():
            self._note_earlier_gradients()
            self._perturb()
        self.last_loss = detached(loss := run_pass())
        if perturbs:
            self._refuse_accumulation()
        return loss

    def _direction(self, p: Tensor, group: dict[str, Any]) -> Tensor | None:
        state = self.state.get(p, {})
        if state and not any(name in state for name in MOMENTA):
            self._refuse_base()
        momenta = (state.get(name) for name in MOMENTA)
        v = next((m for m in momenta if m is not None), None)
        # If the base maximizes, v is of the negated gradient, and the radius negative.
        return v if v is None or group.get("maximize") else -v
