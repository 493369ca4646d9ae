"""LookSAM, which makes a second pass on every k-th step and reuses its result."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import torch

from braindecode_sam._arguments import check_non_negative
from braindecode_sam.optim._checks import BaseOptimizer, Check
from braindecode_sam.optim._flat import FlatGroup
from braindecode_sam.optim._two_gradients import (
    TwoGradientSAM,
    clean_gradients,
    dense_gradients,
    dot,
    gradients,
    if_valid,
    quotient,
)
from braindecode_sam.optim.sam import SAM

ACROSS = "sam__gradient_across"


class LookSAM(TwoGradientSAM):
    r"""LookSAM, with 1 + 1 / interval passes per step.

    The component of the perturbed gradient that is orthogonal to the clean one points
    to flatter regions and changes slowly [1]_. LookSAM computes it on every k-th step
    and reuses it in the steps between.

    Parameters
    ----------
    params, base_optimizer
        As for :class:`~braindecode_sam.SAM`.
    interval : int, default=5
        Make a second pass on every `interval`-th step (k), starting with the first.
    alpha : float, default=0.7
        Weight of the reused component. A parameter group may set its own.
    **options
        Options of :class:`~braindecode_sam.SAM` and of the base optimizer.

    Raises
    ------
    TypeError, ValueError
        As :class:`~braindecode_sam.SAM`, and if `alpha` is not a number >= 0.

    See Also
    --------
    braindecode_sam.SAM : Base class, with all options that it takes.
    braindecode_sam.SAMCallback : Schedule rho and record the sharpness in skorch.
    braindecode_sam.optim.AESAM : Makes a second pass where gradients are large.

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

    **Clipping.** If gradients are clipped in the closure (skorch's
    ``GradientNormClipping``), they are clipped before they are combined. The result can
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

    _group_options: ClassVar[dict[str, Check]] = {
        **SAM._group_options,
        "alpha": check_non_negative,
    }

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

    def _combine_gradients(self) -> None:
        super()._combine_gradients()
        if not self._has_ascended and self._remembers():
            self._update_all()
            groups = self._all.groups
            if groups:
                with dense_gradients(groups):
                    self._add_remembered(groups)

    def _combine(self, groups: Sequence[FlatGroup]) -> None:
        """Leave g_p unchanged and overwrite the clean gradients with g_v."""
        self._reserve(ACROSS, groups)
        g, g_p = clean_gradients(groups), gradients(groups)
        along = quotient(dot(groups, g, g_p), dot(groups, g, g))
        valid = torch.isfinite(along)
        for group, g_v, part in zip(groups, g, g_p, strict=True):
            torch._foreach_mul_(g_v, if_valid(valid, -along, 0.0, group))
            torch._foreach_add_(g_v, part)
            group.flat_clean.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
            torch._foreach_mul_(g_v, if_valid(valid, 1.0, 0.0, group))

    def _base_step(self) -> None:
        super()._base_step()
        if self._has_ascended:
            for group in self._both:
                torch._foreach_copy_(self._remembered(ACROSS, group), group.clean)

    def _add_remembered(self, groups: Sequence[FlatGroup]) -> None:
        g = gradients(groups)
        g_v = [self._known(ACROSS, group) for group in groups]
        g_squared = dot(groups, g, g)
        factor = quotient(g_squared, dot(groups, g_v, g_v)).sqrt()
        valid = torch.isfinite(g_squared)
        for group, part, across in zip(groups, g, g_v, strict=True):
            weight = if_valid(valid, group.options["alpha"] * factor, 0.0, group)
            torch._foreach_add_(part, torch._foreach_mul(across, weight))

    def _remembers(self) -> bool:
        is_on = any(group["rho"] for group in self.param_groups)
        return is_on and any(ACROSS in state for state in self.state.values())
