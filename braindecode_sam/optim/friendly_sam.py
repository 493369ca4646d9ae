r"""Friendly SAM: ascend along what is peculiar to the batch.

The gradient of a batch is the full gradient and the batch's own noise; the noise is
what makes SAM's perturbation useful. With a moving average m of the clean gradients in
place of the full one, m = 0 at first::

    g       = grad L(w)
    d       = g - sigma m
    epsilon = rho * d / ||d||                   (adaptive as in SAM)
    g_p     = grad L(w + epsilon)
    m       = lambda m + (1 - lambda) g
    w       = B(w, g_p)

Li et al.: Friendly Sharpness-Aware Minimization, CVPR 2024 (Algorithm 1). The paper
updates m before it is subtracted, its authors' code after; here it is the code's order,
the old m, which holds nothing of the present batch.
"""

import torch

from braindecode_sam._arguments import check_non_negative
from braindecode_sam.optim._arguments import check_below_one
from braindecode_sam.optim._two_gradients import TwoGradientSAM, dot

MEAN = "mean_gradient"


class FriendlySAM(TwoGradientSAM):
    """Friendly Sharpness-Aware Minimization, two passes a step.

    Parameters
    ----------
    params, base_optimizer
        As for :class:`SAM`.
    sigma : float, default=1.0
        How much of the moving average is taken away; with 0 it is :class:`SAM`. A
        parameter group may set its own.
    lmbda : float, default=0.9
        How much of the moving average stays from step to step, at least 0 and less
        than 1. A parameter group may set its own.
    **options
        Of :class:`SAM` and of the base optimizer.

    Raises
    ------
    TypeError, ValueError
        As :class:`SAM`, and if sigma or lmbda is not such a number.

    Notes
    -----
    The average moves in steps that are perturbed (`interval`, a schedule of rho), and
    in none whose gradients are not finite. It is saved with the optimizer's state.

    Examples
    --------
    >>> import torch
    >>> from braindecode_sam.optim import FriendlySAM
    >>> model = torch.nn.Linear(2, 1)
    >>> optimizer = FriendlySAM(model.parameters(), torch.optim.SGD, lr=0.1)
    """

    variant_options = {  # noqa: RUF012
        "sigma": check_non_negative,
        "lmbda": check_below_one,
    }

    def __init__(
        self,
        params,
        base_optimizer=torch.optim.AdamW,
        *,
        sigma=1.0,
        lmbda=0.9,
        **options,
    ):
        super().__init__(params, base_optimizer, sigma=sigma, lmbda=lmbda, **options)

    def _direction(self, segment):
        mean = segment.real(self.memory.vector(MEAN, segment.params))
        sigma = segment.group["sigma"]
        return torch._foreach_sub(segment.read_gradients(), mean, alpha=sigma)

    def _mixed(self, params, clean, perturbed):
        # Here, after both passes: one that raises shall leave the average as it was.
        mean = self.memory.vector(MEAN, params)
        is_finite = torch.isfinite(dot(clean, clean))
        for m, g, lmbda in zip(mean, clean, self._option("lmbda", params), strict=True):
            m.copy_(torch.where(is_finite.to(m.device), torch.lerp(g, m, lmbda), m))
        return perturbed
