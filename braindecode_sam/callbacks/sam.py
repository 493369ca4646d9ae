"""A callback that schedules SAM's radius and records the sharpness."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from skorch.callbacks import Callback

from braindecode_sam._arguments import check_choice, check_non_negative
from braindecode_sam.optim import SAM

SCHEDULES = {
    "constant": lambda start, stop, progress: start,
    "linear": lambda start, stop, progress: start + (stop - start) * progress,
    "cosine": lambda start, stop, progress: (
        stop + (start - stop) * (1 + math.cos(math.pi * progress)) / 2
    ),
}

NORM_LAYERS = (
    torch.nn.modules.batchnorm._NormBase,
    torch.nn.LayerNorm,
    torch.nn.GroupNorm,
    torch.nn.RMSNorm,
)

RECORDED = ("sharpness", "rho", "grad_norm")


class SAMCallback(BaseEstimator, Callback):
    r"""Schedule rho by epoch, choose what is perturbed, and record the sharpness.

    The callback writes three quantities to the history, for every training batch and
    as an average for every epoch, where ``PrintLog`` shows them. ``sharpness`` is the
    loss at w + epsilon minus the loss at w. ``rho`` is the largest radius of the
    groups. ``grad_norm`` is the norm that scaled epsilon. ``sharpness`` and
    ``grad_norm`` are nan in batches whose step had one pass.

    Parameters
    ----------
    rho : float, callable or None, default=None
        Radius from `start_epoch` on, or at the beginning of a schedule. None takes the
        one that the optimizer was constructed with, not that of its groups. A callable
        gets the epoch, counted from 0, and returns the radius. The radius is set in all
        parameter groups.
    schedule : {"constant", "linear", "cosine"}, default="constant"
        How the radius changes from `rho` to `final_rho`, which it reaches in the last
        of ``net.max_epochs``.
    final_rho : float, default=0.0
        Radius in the last epoch of a "linear" or "cosine" schedule.
    start_epoch : int, default=0
        First epoch with a perturbation. Before it, rho is 0 and a step takes one pass
        (late-phase SAM [1]_).
    perturb : {"all", "norm"} or None, default=None
        "all" perturbs all parameters. "norm" perturbs only those of normalization
        layers (SAM-ON [2]_). None leaves the choice to the optimizer, which perturbs
        all parameters unless its ``perturb_only`` was called.

    Raises
    ------
    TypeError
        When training starts, if the net's optimizer is not a SAM, or `rho` is neither a
        number nor a callable.
    ValueError
        When training starts, if an option is unknown or out of its range, if there are
        no normalization layers to perturb, or if the parameter groups have different
        radii that a schedule would overwrite.

    Warns
    -----
    UserWarning
        When training starts, if ``max_epochs`` does not reach `start_epoch`. When
        training ends, if it was stopped before `start_epoch`.

    See Also
    --------
    braindecode_sam.SAM : The optimizer.
    braindecode_sam.visualization.plot_history : Plot the recorded quantities.
    braindecode_sam.landscape.sharpness : Sharpness of a fitted net on all windows.

    Notes
    -----
    **Schedules.** In epoch :math:`t`, counted from 0, of `max_epochs` :math:`T`, the
    progress is :math:`p = (t - t_0) / (T - 1 - t_0)`, where :math:`t_0` is
    `start_epoch`. A "linear" schedule sets the radius to

    .. math:: \rho_t = \rho + (\rho_\mathrm{final} - \rho) \, p

    and a "cosine" schedule to

    .. math::

        \rho_t = \rho_\mathrm{final}
            + \frac{\rho - \rho_\mathrm{final}}{2} \left(1 + \cos(\pi p)\right)

    After epoch :math:`T - 1`, as in ``partial_fit``, the radius stays at
    :math:`\rho_\mathrm{final}`.

    References
    ----------
    .. [1] Z. Zhou, M. Wang, Y. Mao, B. Li, J. Yan. "Sharpness-Aware Minimization
       Efficiently Selects Flatter Minima Late in Training", ICLR 2025.
       https://doi.org/10.48550/arXiv.2410.10373
    .. [2] M. Mueller, T. Vlaar, D. Rolnick, M. Hein. "Normalization Layers Are All That
       Sharpness-Aware Minimization Needs", NeurIPS 2023.
       https://doi.org/10.48550/arXiv.2306.04226

    Examples
    --------
    >>> from braindecode import EEGRegressor
    >>> from braindecode_sam import SAM, SAMCallback
    >>> callback = SAMCallback(schedule="cosine", start_epoch=10)
    >>> net = EEGRegressor(
    ...     "EEGNeX", optimizer=SAM, optimizer__rho=0.05,
    ...     max_epochs=30, callbacks=[("sam", callback)])

    Its parameters can be searched over by their names in the net:

    >>> net = net.set_params(callbacks__sam__perturb="norm")
    >>> net.get_params()["callbacks__sam__perturb"]
    'norm'
    """

    def __init__(
        self,
        rho: float | Callable[[int], float] | None = None,
        *,
        schedule: str = "constant",
        final_rho: float = 0.0,
        start_epoch: int = 0,
        perturb: str | None = None,
    ) -> None:
        self.rho = rho
        self.schedule = schedule
        self.final_rho = final_rho
        self.start_epoch = start_epoch
        self.perturb = perturb

    def on_train_begin(self, net: Any, **kwargs: Any) -> None:
        """Check the options, and choose what the optimizer perturbs."""
        self._check_options()
        optimizer = _sam_of(net)
        radii = [group[_rho_key(optimizer)] for group in optimizer.param_groups]
        if self._is_scheduled() and len(set(radii)) > 1:
            raise ValueError(
                "SAMCallback sets one rho for all parameter groups, but the groups have"
                f" different ones: {radii}. To keep them, leave rho=None,"
                " schedule='constant' and start_epoch=0. Otherwise set rho in"
                " SAMCallback and in no group."
            )
        if self.start_epoch >= len(net.history) + net.max_epochs:
            self._warn_of_no_start(f"max_epochs={net.max_epochs}")
        if self.perturb is not None:
            only = None if self.perturb == "all" else _norm_parameters(net)
            optimizer.perturb_only(only)

    def on_epoch_begin(self, net: Any, **kwargs: Any) -> None:
        """Set this epoch's radius."""
        if self._is_scheduled():
            optimizer = _sam_of(net)
            rho = self._rho_in(len(net.history) - 1, net.max_epochs, optimizer)
            for group in optimizer.param_groups:
                group[_rho_key(optimizer)] = rho

    def on_batch_end(
        self, net: Any, batch: Any = None, training: bool | None = None, **kwargs: Any
    ) -> None:
        """Record sharpness, rho and gradient norm of the step."""
        if not training:
            return
        optimizer: Any = _sam_of(net)
        rho = max(group[_rho_key(optimizer)] for group in optimizer.param_groups)
        sharpness = grad_norm = math.nan
        if optimizer.last_perturbed_loss is not None:
            sharpness = float(optimizer.last_perturbed_loss - optimizer.last_loss)
            grad_norm = float(optimizer.last_grad_norm)
        measured = (sharpness, float(rho), grad_norm)
        for name, value in zip(RECORDED, measured, strict=True):
            net.history.record_batch(name, value)

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        """Average over the batches, weighted by their sizes as in skorch's losses."""
        batches = [b for b in net.history[-1]["batches"] if RECORDED[0] in b]
        if not batches:  # as WindowCheck reports
            return
        sizes = np.array([b["train_batch_size"] for b in batches])
        for name in RECORDED:
            values = np.array([b[name] for b in batches])
            known = ~np.isnan(values)
            mean = math.nan
            if known.any():
                mean = float(np.average(values[known], weights=sizes[known]))
            net.history.record(name, mean)

    def on_train_end(self, net: Any, **kwargs: Any) -> None:
        """Warn if training was stopped before the first perturbation."""
        if len(net.history) <= self.start_epoch < net.max_epochs:
            self._warn_of_no_start(f"training ended after {len(net.history)} epochs")

    def _warn_of_no_start(self, reason: str) -> None:
        warnings.warn(
            f"No step is perturbed: start_epoch={self.start_epoch}, counted from 0, but"
            f" {reason}.",
            stacklevel=3,
        )

    def _is_scheduled(self) -> bool:
        is_own = self.rho is None and self.schedule == "constant"
        return not is_own or self.start_epoch > 0

    def _rho_in(self, epoch: int, max_epochs: int, optimizer: SAM) -> float:
        if epoch < self.start_epoch:
            return 0.0
        if callable(self.rho):
            return float(self.rho(epoch))
        own = optimizer.defaults[_rho_key(optimizer)]
        start = own if self.rho is None else self.rho
        span = max(max_epochs - 1 - self.start_epoch, 1)
        progress = min((epoch - self.start_epoch) / span, 1.0)
        return float(SCHEDULES[self.schedule](start, self.final_rho, progress))

    def _check_options(self) -> None:
        check_choice("schedule", self.schedule, SCHEDULES)
        check_choice("perturb", self.perturb, ("all", "norm", None))
        check_non_negative("final_rho", self.final_rho)
        check_non_negative("start_epoch", self.start_epoch)
        if self.rho is not None and not callable(self.rho):
            check_non_negative("rho", self.rho, "a number >= 0, a callable or None")
        if callable(self.rho) and self.schedule != "constant":
            raise ValueError(
                "a callable rho already defines the schedule; schedule must be"
                f" 'constant' then, got {self.schedule!r}"
            )


def _sam_of(net: Any) -> SAM:
    optimizer = getattr(net.optimizer_, "optimizer", net.optimizer_)  # of accelerate
    if not isinstance(optimizer, SAM):
        name = type(optimizer).__name__
        raise TypeError(
            f"SAMCallback needs a net whose optimizer is a SAM, got {name}."
            f" Pass optimizer=SAM and, to keep {name} as the base optimizer,"
            f" optimizer__base_optimizer={name}."
        )
    return optimizer


def _rho_key(optimizer: SAM) -> str:
    """Return the name of SAM's rho in a group. The base optimizer may have one, too."""
    return "sam__rho" if "sam__rho" in optimizer.defaults else "rho"


def _norm_parameters(net: Any) -> list[torch.nn.Parameter]:
    modules = (getattr(net, name + "_") for name in [*net._modules, *net._criteria])
    params = [
        param
        for module in modules
        if isinstance(module, torch.nn.Module)
        for layer in module.modules()
        if isinstance(layer, NORM_LAYERS)
        for param in layer.parameters(recurse=False)
    ]
    if not params:
        raise ValueError(
            "perturb='norm' perturbs normalization layers, but the net has none with"
            " parameters; expected perturb='all'"
        )
    return params
