"""SAM with gradient scaling, and under skorch's AccelerateMixin."""

from __future__ import annotations

import math
import types
from collections.abc import Callable
from typing import Any

import torch
from skorch.hf import AccelerateMixin


class SAMAccelerateMixin(AccelerateMixin):
    """skorch's ``AccelerateMixin`` for optimizers that call a closure.

    skorch's ``AccelerateMixin`` steps without a closure, so that a SAM cannot make its
    second pass. This mixin passes the closure. It works for other optimizers too.

    Parameters
    ----------
    *args, **kwargs
        As for ``skorch.hf.AccelerateMixin``, including ``accelerator``.

    Raises
    ------
    ValueError
        When the net is initialized, if the accelerator accumulates gradients. Both
        passes of a step must use the same windows.

    See Also
    --------
    scaled_step : The same for custom training loops with a gradient scaler.

    Examples
    --------
    >>> from accelerate import Accelerator
    >>> from braindecode import EEGRegressor
    >>> from braindecode_sam import SAM
    >>> from braindecode_sam.amp import SAMAccelerateMixin
    >>> class AcceleratedRegressor(SAMAccelerateMixin, EEGRegressor):
    ...     '''An EEGRegressor that runs under accelerate.'''
    >>> accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    >>> net = AcceleratedRegressor(
    ...     "FastEEGNeX", optimizer=SAM, accelerator=accelerator)
    """

    def _validate_params(self) -> None:
        super()._validate_params()
        n_steps = self.accelerator.gradient_accumulation_steps
        if n_steps != 1:
            raise ValueError(
                "SAM computes both gradients of a step on one batch; expected an"
                f" Accelerator with gradient_accumulation_steps=1, got {n_steps}."
                " Increase batch_size instead."
            )

    def _step_optimizer(self, step_fn: Callable[[], Any]) -> None:
        for name in self._optimizers:
            optimizer = getattr(self, name + "_")
            scaler = getattr(optimizer, "scaler", None)
            if scaler is None:
                optimizer.step(step_fn)
            else:
                is_made = scaled_step(optimizer.optimizer, step_fn, scaler)
                # accelerate's learning rate schedulers read it.
                optimizer._is_overflow = not is_made


def scaled_step(
    optimizer: torch.optim.Optimizer,
    closure: Callable[[], Any],
    scaler: torch.amp.GradScaler,
) -> bool:
    """Make a step with scaled gradients, for float16.

    This is for custom training loops with ``torch.amp.GradScaler``, whose ``step``
    accepts no closure. The gradients of each pass are unscaled before the optimizer
    uses them. If those of either pass overflow, the step is skipped and the scale
    decreases, as in training without SAM.

    Parameters
    ----------
    optimizer : SAM
        A SAM, or another optimizer that rolls the step back if the closure raises.
    closure : callable
        Zeroes the gradients, runs forward, calls ``scaler.scale(loss).backward()`` and
        returns the unscaled loss.
    scaler : torch.amp.GradScaler
        The scaler, whose ``update`` is called by this function.

    Returns
    -------
    is_made : bool
        Whether the step was made, that is, no gradient has overflowed.

    See Also
    --------
    SAMAccelerateMixin : The same for skorch nets under accelerate.

    Examples
    --------
    >>> import torch
    >>> from braindecode_sam import SAM
    >>> from braindecode_sam.amp import scaled_step
    >>> model, x = torch.nn.Linear(2, 1), torch.ones(4, 2)
    >>> optimizer = SAM(model.parameters())
    >>> scaler = torch.amp.GradScaler("cpu")
    >>> def closure():
    ...     optimizer.zero_grad()
    ...     loss = model(x).square().mean()
    ...     scaler.scale(loss).backward()
    ...     return loss
    >>> scaled_step(optimizer, closure, scaler)
    True
    """
    passes: list[Any] = []  # kept until the update, as the scaler uses their ids

    def unscaled_closure() -> Any:
        loss = closure()
        passes.append(types.SimpleNamespace(param_groups=optimizer.param_groups))
        scaler.unscale_(passes[-1])
        grads = [p.grad for g in optimizer.param_groups for p in g["params"]]
        found = [g for g in grads if g is not None]
        values = [g.coalesce().values() if g.is_sparse else g for g in found]
        # One norm of all, so that a GPU is waited for only once.
        largest = torch.nn.utils.get_total_norm(values, norm_type=math.inf)
        if not largest.isfinite():
            raise _OverflowError
        return loss

    try:
        optimizer.step(unscaled_closure)
    except _OverflowError:
        return False
    finally:
        if passes:
            scaler.update()
    return True


class _OverflowError(Exception):
    """A gradient is not finite."""
