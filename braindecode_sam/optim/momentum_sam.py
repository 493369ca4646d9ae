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

import torch

from braindecode_sam.optim.sam import SAM

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
        As :class:`SAM`, and if the base optimizer keeps no momentum.

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

    def add_param_group(self, param_group):
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
        if "base_optimizer" in self.__dict__:
            self._check_momentum(self.param_groups[-1:])

    def _share_with_base(self):
        super()._share_with_base()
        self._check_momentum(self.param_groups)

    def _check_momentum(self, groups):
        for group in groups:
            if not (group.get("momentum") or "betas" in group):
                raise ValueError(
                    "MomentumSAM perturbs along the momentum of its base optimizer, but"
                    f" {type(self.base_optimizer).__name__} keeps none with these"
                    " options; expected, for instance, torch.optim.AdamW, or"
                    " torch.optim.SGD with momentum=0.9"
                )

    def _passes(self, closure):
        if not self._perturbs():
            return self._pass(closure), None
        self._save()
        try:
            self._ascend()
            return self._pass(closure), None
        finally:
            self._restore()

    def _direction(self, segment):
        momenta = list(map(self._momentum, segment.params))
        return torch._foreach_neg(segment.real(momenta))

    def _momentum(self, param):
        state = self.state.get(param, {})
        known = [state[name] for name in MOMENTA if state.get(name) is not None]
        return known[0] if known else torch.zeros_like(param)
