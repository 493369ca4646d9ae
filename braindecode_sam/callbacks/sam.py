"""A skorch callback that schedules SAM's radius and records what SAM measures."""

from __future__ import annotations

import fnmatch
import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from skorch import NeuralNetRegressor
from skorch.callbacks import Callback

from braindecode_sam._arguments import check_choice, check_non_negative
from braindecode_sam.checks import is_missing_a_column
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


class SAMCallback(Callback):
    """Schedule rho by epoch, choose what is perturbed, and record the sharpness.

    Writes for every training batch, and averaged for every epoch so that
    ``PrintLog`` shows them: ``sharpness``, the loss at w + epsilon minus the loss at
    w; ``rho``; and ``grad_norm``, the norm that scaled epsilon. The first and the
    last are nan in a batch whose step was not perturbed.

    Parameters
    ----------
    rho : float, callable or None, default=None
        Radius in the first epoch from `start_epoch` on; None takes the optimizer's
        own. A callable gets the epoch, counted from 0, and returns the radius. It
        is set in all parameter groups.
    schedule : {"constant", "linear", "cosine"}, default="constant"
        How rho gets from `rho` to `final_rho` in the last of ``net.max_epochs``.
    final_rho : float, default=0.0
        Radius at the end of a "linear" or "cosine" schedule.
    start_epoch : int, default=0
        Before this epoch rho is 0 and a step costs one pass: late-phase SAM.
    perturb : {"all", "norm"} or None, default=None
        Perturb all parameters, or those of normalization layers only (SAM-ON). None
        leaves the optimizer as it is: all, or what its ``perturb_only`` was given.

    Raises
    ------
    TypeError
        When training starts, if the net's optimizer is not a SAM or `rho` is
        neither a number nor a callable.
    ValueError
        When training starts, if an option is unknown or out of its range, if there
        are no normalization layers to perturb, if the parameter groups' own radii
        differ and a schedule would level them, or if a pattern of
        ``optimizer__param_groups`` matches no parameter.

    References
    ----------
    Late phase: Zhou et al., Sharpness-Aware Minimization Efficiently Selects Flatter
    Minima Late in Training, 2024. Normalization layers: Mueller et al., Normalization
    Layers Are All That Sharpness-Aware Minimization Needs, NeurIPS 2023.

    Examples
    --------
    >>> from braindecode import EEGRegressor
    >>> from braindecode_sam import SAM, SAMCallback
    >>> net = EEGRegressor(
    ...     "EEGNeX", optimizer=SAM, optimizer__rho=0.05, max_epochs=30,
    ...     callbacks=[("sam", SAMCallback(schedule="cosine", start_epoch=10))],
    ... )
    >>> net.set_params(callbacks__sam__perturb="norm").get_params()[
    ...     "callbacks__sam__perturb"]
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

    def on_train_begin(
        self, net: Any, X: Any = None, y: Any = None, **kwargs: Any
    ) -> None:
        """Check the options, and tell the optimizer what to perturb."""
        self._check_options()
        optimizer = _sam_of(net)
        _check_patterns(net)
        if self._is_scheduled():
            _check_equal_radii(optimizer)
        if self.perturb is not None:
            only = None if self.perturb == "all" else _norm_parameters(net)
            optimizer.perturb_only(only)

    def on_epoch_begin(
        self,
        net: Any,
        dataset_train: Any = None,
        dataset_valid: Any = None,
        **kwargs: Any,
    ) -> None:
        """Set this epoch's radius."""
        if self._is_scheduled():
            optimizer = _sam_of(net)
            rho = self._rho_in(len(net.history) - 1, net.max_epochs, optimizer)
            for group in optimizer.param_groups:
                group["rho"] = rho

    def on_batch_end(
        self, net: Any, batch: Any = None, training: bool | None = None, **kwargs: Any
    ) -> None:
        """Record what the step measured."""
        if training:
            _warn_of_a_missing_column(net, batch, kwargs.get("y_pred"))
            for name, value in zip(RECORDED, _measured(_sam_of(net)), strict=True):
                net.history.record_batch(name, value)

    def on_epoch_end(
        self,
        net: Any,
        dataset_train: Any = None,
        dataset_valid: Any = None,
        **kwargs: Any,
    ) -> None:
        """Average over the batches, weighted by their sizes as skorch's losses are."""
        batches = [b for b in net.history[-1]["batches"] if RECORDED[0] in b]
        if not batches:
            warnings.warn(
                f"No batch was trained on in epoch {len(net.history)}: there are fewer"
                f" windows than batch_size={net.batch_size}, and the last, smaller"
                " batch is dropped (iterator_train__drop_last=True).",
                stacklevel=2,
            )
            return
        sizes = np.array([b["train_batch_size"] for b in batches])
        for name in RECORDED:
            values = np.array([b[name] for b in batches])
            net.history.record(name, _mean_of_known(values, sizes))

    def _is_scheduled(self) -> bool:
        own = self.rho is None and self.schedule == "constant" and not self.start_epoch
        return not own

    def _rho_in(self, epoch: int, max_epochs: int, optimizer: SAM) -> float:
        if epoch < self.start_epoch:
            return 0.0
        if callable(self.rho):
            return float(self.rho(epoch))
        start = optimizer.defaults["rho"] if self.rho is None else self.rho
        span = max(max_epochs - 1 - self.start_epoch, 1)
        progress = min((epoch - self.start_epoch) / span, 1.0)
        return SCHEDULES[self.schedule](start, self.final_rho, progress)

    def _check_options(self) -> None:
        check_choice("schedule", self.schedule, SCHEDULES)
        check_choice("perturb", self.perturb, ("all", "norm", None))
        check_non_negative("final_rho", self.final_rho)
        check_non_negative("start_epoch", self.start_epoch)
        if self.rho is not None and not callable(self.rho):
            check_non_negative("rho", self.rho, "a number >= 0, a callable or None")
        if callable(self.rho) and self.schedule != "constant":
            raise ValueError(
                "a callable rho already defines the schedule; schedule must be left at"
                f" 'constant', got {self.schedule!r}"
            )


def _sam_of(net: Any) -> SAM:
    optimizer = getattr(net.optimizer_, "optimizer", net.optimizer_)  # accelerate's
    if not isinstance(optimizer, SAM):
        name = type(optimizer).__name__
        raise TypeError(
            f"SAMCallback needs a net whose optimizer is a SAM, this one's is {name}."
            f" Pass optimizer=SAM and, to keep {name} as the base,"
            f" optimizer__base_optimizer={name}."
        )
    return optimizer


def _warn_of_a_missing_column(net: Any, batch: Any, y_pred: Any) -> None:
    is_first = len(net.history) == len(net.history[-1]["batches"]) == 1
    is_compared_so = type(net).get_loss is NeuralNetRegressor.get_loss
    if is_first and is_compared_so and is_missing_a_column(y_pred, batch[1]):
        warnings.warn(
            f"The targets of a batch have the shape {tuple(batch[1].shape)}, its"
            f" predictions {tuple(y_pred.shape)}: the loss compares each target with"
            " every prediction. Give the targets a column, y[:, None].",
            stacklevel=2,
        )


def _check_patterns(net: Any) -> None:
    """Refuse patterns that skorch would leave out without a word."""
    names = [name for name, _ in net.get_all_learnable_params()]
    for pattern, options in net.get_params_for("optimizer").get("param_groups") or []:
        if not fnmatch.filter(names, pattern):
            raise ValueError(
                f"optimizer__param_groups has {pattern!r} for {options!r}, which"
                f" matches none of {len(names)} parameters; expected patterns of names"
                f" such as {names[0]!r}. A weight with a parametrization, say a"
                " max-norm, is called '*.parametrizations.weight.original'."
            )


def _check_equal_radii(optimizer: SAM) -> None:
    radii = [group["rho"] for group in optimizer.param_groups]
    if len(set(radii)) > 1:
        raise ValueError(
            f"SAMCallback sets one rho for all parameter groups, but theirs differ:"
            f" {radii}. Leave rho=None, schedule='constant' and start_epoch=0 to keep"
            " them, or give all groups the same rho."
        )


def _norm_parameters(net: Any) -> list[torch.nn.Parameter]:
    modules = (getattr(net, name + "_") for name in [*net._modules, *net._criteria])
    layers = [
        layer
        for module in modules
        if isinstance(module, torch.nn.Module)
        for layer in module.modules()
        if isinstance(layer, NORM_LAYERS)
    ]
    params = [p for layer in layers for p in layer.parameters(recurse=False)]
    if not params:
        raise ValueError(
            "perturb='norm' perturbs normalization layers, but the net has none with"
            " parameters. Use perturb='all'."
        )
    return params


def _measured(optimizer: Any) -> tuple[float, float, float]:
    rho = max(group["rho"] for group in optimizer.param_groups)
    if optimizer.last_perturbed_loss is None:
        return math.nan, float(rho), math.nan
    sharpness = optimizer.last_perturbed_loss - optimizer.last_loss
    return float(sharpness), float(rho), float(optimizer.last_grad_norm)


def _mean_of_known(values: NDArray[np.float64], weights: NDArray[np.int64]) -> float:
    known = ~np.isnan(values)
    if not known.any():
        return math.nan
    return float(np.average(values[known], weights=weights[known]))
