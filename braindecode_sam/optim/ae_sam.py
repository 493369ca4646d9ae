r"""AE-SAM: SAM only where the loss is sharp.

A large gradient is taken for a sign of sharpness. Its squared norm n is compared with
its own moving mean mu and variance s (both 0 at first)::

    g, n = grad L(w), ||g||^2
    mu   = decay mu + (1 - decay) n
    s    = decay s + (1 - decay) (n - mu)^2
    if n >= mu + c_t sqrt(s):   as SAM, g_p by a second pass
    else:                       g_p = g, one pass
    w    = B(w, g_p)

with c_t going from c to final_c in total_steps steps, then staying.

Jiang, Yang, Zhang, Kwok: An Adaptive Policy to Employ Sharpness-Aware Minimization,
ICLR 2023 (Algorithm 1, AE-SAM; c and final_c are its lambda_2 and lambda_1, decay its
delta).
"""

import math

import torch

from braindecode_sam._arguments import check_number, check_positive
from braindecode_sam.optim._arguments import check_below_one
from braindecode_sam.optim._two_gradients import dot
from braindecode_sam.optim._workspace import dense_gradient
from braindecode_sam.optim.sam import SAM


class AESAM(SAM):
    """Adaptive policy to Employ SAM, one or two passes a step.

    Parameters
    ----------
    params, base_optimizer
        As for :class:`SAM`.
    c : float, default=0.0
        How many standard deviations above the mean a squared norm must be, at first;
        may be negative. 0 perturbs about half of the steps.
    final_c : float or None, default=None
        The same after `total_steps`; None keeps it at c. The paper lets it fall from
        1 to -1.
    total_steps : int or None, default=None
        Steps of the whole training; needed with `final_c` only.
    decay : float, default=0.9
        How much of the moving mean and variance stays, at least 0 and less than 1.
    **options
        Of :class:`SAM` and of the base optimizer.

    Raises
    ------
    TypeError, ValueError
        As :class:`SAM`, and if one of these is out of its range, or final_c is given
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
    ...     model.parameters(), lr=1e-3, c=1, final_c=-1, total_steps=900)
    """

    variant_attributes = ("c", "final_c", "total_steps", "decay")

    def __init__(
        self,
        params,
        base_optimizer=torch.optim.AdamW,
        *,
        c=0.0,
        final_c=None,
        total_steps=None,
        decay=0.9,
        **options,
    ):
        check_number("c", c)
        check_below_one("decay", decay)
        if final_c is not None:
            check_number("final_c", final_c)
            check_positive(
                "total_steps", total_steps, "the number of steps, with final_c"
            )
        self.c, self.final_c = c, final_c
        self.total_steps, self.decay = total_steps, decay
        super().__init__(params, base_optimizer, **options)

    def _reset_transient_state(self):
        super()._reset_transient_state()
        self._moved = None

    def _perturbs(self):
        self._moved = None  # a step that failed may have left some
        return super()._perturbs()

    def _is_sharp(self):
        gradients = [dense_gradient(p) for p in self._params() if p.grad is not None]
        size = float(dot(gradients, gradients)) if gradients else 0.0
        if not math.isfinite(size):
            return False
        known = self.memory.numbers
        mean = self._move(known.get("mean", 0.0), size)
        variance = self._move(known.get("variance", 0.0), (size - mean) ** 2)
        self._moved = {"mean": mean, "variance": variance}
        return size >= mean + self._threshold() * math.sqrt(variance)

    def _mix(self):
        # Here, after both passes: one that raises shall leave the moments as they were.
        self.memory.numbers.update(self._moved or {})

    def _move(self, average, value):
        return self.decay * average + (1 - self.decay) * value

    def _threshold(self):
        if self.final_c is None:
            return self.c
        progress = min(self.n_steps / self.total_steps, 1.0)
        return self.c + (self.final_c - self.c) * progress
