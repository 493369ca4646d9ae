r"""Momentum-SAM: perturb along the momentum, which costs no pass.

v is the momentum that the base optimizer keeps anyway, 0 at first::

    epsilon = - rho * v / ||v||                 (adaptive: - rho T^2 v / ||T v||)
    g_p     = grad L(w + epsilon)               closure, the only pass
    w       = w                                 restore, bit for bit
    w       = B(w, g_p), which also moves v

Becker, Altrock, Risse: Momentum-SAM: Sharpness Aware Minimization without Computational
Overhead, 2024 (Algorithm 1). The sign is the paper's: epsilon points where the last
steps went, as in Nesterov's method; some implementations add rho v / ||v|| instead. The
paper's algorithm, and code after it, leaves the weights perturbed between the steps,
where validation and checkpoints then find them; here they are clean.
"""

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
    """Momentum-SAM, one pass a step.

    Parameters
    ----------
    params, base_optimizer
        As for :class:`SAM`. The base optimizer must keep a momentum: SGD or RMSprop
        with ``momentum``, Adam and its kin.
    **options
        Of :class:`SAM` and of the base optimizer.

    Raises
    ------
    TypeError, ValueError
        As :class:`SAM`, and if the base optimizer keeps no momentum, or a part of it in
        each process (``ZeroRedundancyOptimizer``).

    Notes
    -----
    There is no pass at w: ``step`` returns the loss at w + epsilon, normalization
    layers see that pass, and ``last_perturbed_loss`` stays None. Gradients that are
    clipped in the closure are clipped once, as without SAM.

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
                "MomentumSAM cannot perturb along momenta that are spread over the"
                " processes, as a ZeroRedundancyOptimizer keeps them; expected a base"
                " optimizer such as torch.optim.AdamW, or another SAM."
            )

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; see :meth:`SAM.add_param_group`.

        Parameters
        ----------
        param_group : dict
            As for any torch optimizer.

        Raises
        ------
        ValueError
            If the base optimizer keeps no momentum for it.
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
        # perturb() turns the direction round where the base maximizes, but a momentum
        # is that of the descent already.
        is_descent = not group.options.base.get("maximize")
        return list(torch._foreach_neg(v)) if is_descent else v

    def _momentum(self, param: Tensor) -> Tensor | None:
        state = self.state.get(param, {})
        known = [state[name] for name in MOMENTA if state.get(name) is not None]
        return known[0] if known else None
