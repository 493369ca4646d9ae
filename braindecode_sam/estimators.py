"""From a configuration to a net: the only place where all parts meet."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import torch
from braindecode import EEGRegressor
from braindecode.augmentation import AugmentedDataLoader

from braindecode_sam.augmentation import GaussianNoise, TimeShift
from braindecode_sam.callbacks import SAMCallback, SeedCallback, WindowCheck
from braindecode_sam.configs import (
    AugmentationConfig,
    OptimizerConfig,
    TrainingConfig,
    load_config,
)
from braindecode_sam.device import resolve_device
from braindecode_sam.optim import SAM


def make_regressor(
    config: str | os.PathLike[str] | dict[str, Any] | TrainingConfig = "challenge_1",
    *,
    device: str | torch.device = "auto",
    random_state: int | None = None,
    **overrides: Any,
) -> EEGRegressor:
    """Build an EEGRegressor from a configuration.

    Parameters
    ----------
    config : str, path-like, dict or TrainingConfig, default="challenge_1"
        What :func:`braindecode_sam.load_config` accepts.
    device : str or torch.device, default="auto"
        What :func:`braindecode_sam.resolve_device` accepts.
    random_state : int or None, default=None
        Seed of all that is drawn for the net, by a callback named ``seed``; see
        :class:`~braindecode_sam.callbacks.SeedCallback`. Pass
        ``callbacks__seed__n_threads=1`` for the same scores in any number of workers.
    **overrides
        Any parameter of an EEGRegressor, over the configuration's: ``max_epochs=3``,
        ``optimizer__base_optimizer=torch.optim.SGD``, ``module__n_chans=19``.
        ``callbacks`` are added to the two that check the data (named
        ``window_check``) and record the sharpness (``sam``), the latter only where
        the optimizer is a SAM. Another ``optimizer=torch.optim.AdamW`` gets the
        configuration's learning rate and weight decay.

    Returns
    -------
    net : EEGRegressor
        Not initialized, with :class:`~braindecode_sam.FastEEGNeX` as its module (pass
        ``module="EEGNeX"`` for the stock one). All windows are trained on
        (``train_split=None``); pass ``train_split=SubjectSplit(0.2)`` to validate
        inside.

    Raises
    ------
    ValueError
        If the configuration is not valid or the device does not exist.
    RuntimeError
        If PyTorch cannot use the device here.

    Examples
    --------
    >>> from braindecode_sam import make_regressor
    >>> net = make_regressor("challenge_1", device="cpu", max_epochs=3)
    >>> net.max_epochs, net.batch_size, net.optimizer.__name__
    (3, 32, 'SAM')
    """
    config = load_config(config)
    optimizer = overrides.pop("optimizer", SAM)
    settings = {
        **_module_settings(config.model),
        **_optimizer_settings(config.optimizer, optimizer),
        **_augmentation_settings(config.augmentation),
        **dict(config.training),
        "train_split": None,
        "callbacks": [
            *([] if random_state is None else [("seed", SeedCallback(random_state))]),
            *_callbacks(optimizer, overrides.pop("callbacks", None)),
        ],
        "device": resolve_device(device),
    }
    return EEGRegressor(**(settings | overrides))


def _is_sam(optimizer: Any) -> bool:
    return isinstance(optimizer, type) and issubclass(optimizer, SAM)


def _callbacks(optimizer: Any, further: Iterable[Any] | None) -> list[Any]:
    sam = [("sam", SAMCallback())] if _is_sam(optimizer) else []
    return [("window_check", WindowCheck()), *sam, *(further or [])]


def _module_settings(model: Any) -> dict[str, Any]:
    chosen = model.model_dump(exclude_unset=True, exclude={"model_name_"})
    return {
        "module": f"Fast{model.model_name_}",
        **{f"module__{name}": value for name, value in chosen.items()},
    }


def _optimizer_settings(config: OptimizerConfig, optimizer: Any) -> dict[str, Any]:
    options = dict(config)
    lr = options.pop("lr")
    if not _is_sam(optimizer):
        options = {"weight_decay": config.weight_decay}
    settings = {f"optimizer__{name}": value for name, value in options.items()}
    return {"optimizer": optimizer, "lr": lr, **settings}


def _augmentation_settings(augmentation: AugmentationConfig) -> dict[str, Any]:
    probability = augmentation.probability
    return {
        "iterator_train": AugmentedDataLoader,
        "iterator_train__transforms": [
            TimeShift(probability, max_shift=augmentation.max_shift),
            GaussianNoise(probability, std=augmentation.noise_std),
        ],
    }
