"""From a configuration to a net: the only place where all parts meet."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from braindecode.augmentation import AugmentedDataLoader, Transform

from braindecode_sam.augmentation import GaussianNoise, TimeShift
from braindecode_sam.callbacks import SAMCallback, SeedCallback, WindowCheck
from braindecode_sam.configs import (
    AugmentationConfig,
    OptimizerConfig,
    TrainingConfig,
    load_config,
)
from braindecode_sam.device import resolve_device
from braindecode_sam.nets import Classifier, Regressor, is_sam
from braindecode_sam.optim import SAM

Augmentation: TypeAlias = str | Transform | Sequence[Transform] | None


class _Task(NamedTuple):
    """What a builder's nets are for, and which of torch's losses are not for that."""

    builder: str
    foreign_losses: tuple[type, ...]
    accepted: str


_REGRESSION = _Task(
    "make_regressor",
    (torch.nn.CrossEntropyLoss, torch.nn.NLLLoss, torch.nn.MultiMarginLoss),
    "'challenge_1' or 'challenge_2', or criterion=torch.nn.MSELoss",
)
_CLASSIFICATION = _Task(
    "make_classifier",
    (
        torch.nn.MSELoss,
        torch.nn.L1Loss,
        torch.nn.SmoothL1Loss,
        torch.nn.HuberLoss,
        torch.nn.PoissonNLLLoss,
        torch.nn.GaussianNLLLoss,
    ),
    "'classification', or criterion=torch.nn.CrossEntropyLoss",
)


def make_regressor(
    config: str | os.PathLike[str] | dict[str, Any] | TrainingConfig = "challenge_1",
    *,
    device: str | torch.device = "auto",
    random_state: int | None = None,
    augmentation: Augmentation = "config",
    **overrides: Any,
) -> Regressor:
    """Build an EEGRegressor from a configuration.

    Parameters
    ----------
    config : str, path-like, dict or TrainingConfig, default="challenge_1"
        What :func:`braindecode_sam.load_config` accepts. One whose criterion is a loss
        for classification needs another `criterion`; the net then takes its number of
        outputs from the targets, not from the configuration.
    device : str or torch.device, default="auto"
        What :func:`braindecode_sam.resolve_device` accepts.
    random_state : int or None, default=None
        Seed of all that is drawn for the net, by a callback named ``seed``; see
        :class:`~braindecode_sam.callbacks.SeedCallback`. Pass
        ``callbacks__seed__n_threads=1`` for the same scores in any number of workers.
    augmentation : "config", None or list of Transform, default="config"
        What is done to training windows: what the configuration says, nothing, or
        transforms as :mod:`braindecode.augmentation` has them.
    **overrides
        Any parameter of an EEGRegressor, over the configuration's: ``max_epochs=3``,
        ``optimizer__base_optimizer=torch.optim.SGD``, ``module__n_chans=19``.
        ``callbacks`` are added to the two that check the data (named
        ``window_check``) and record the sharpness (``sam``), the latter only where
        the optimizer is a SAM. Another ``optimizer=torch.optim.AdamW`` gets the
        configuration's learning rate and weight decay.

    Returns
    -------
    net : Regressor
        An EEGRegressor, not initialized, with :class:`~braindecode_sam.FastEEGNeX` as
        its module (pass ``module="EEGNeX"`` for the stock one). All windows are trained
        on (``train_split=None``); pass ``train_split=SubjectSplit(0.2)`` to validate
        inside.

    Raises
    ------
    TypeError
        If `augmentation` is neither "config", None nor made of transforms.
    ValueError
        If the configuration is not valid or for classification, or the device does not
        exist.
    RuntimeError
        If PyTorch cannot use the device here.

    Examples
    --------
    >>> from braindecode_sam import make_regressor
    >>> net = make_regressor("challenge_1", device="cpu", max_epochs=3)
    >>> net.max_epochs, net.batch_size, net.optimizer.__name__
    (3, 32, 'SAM')
    """
    task = _REGRESSION
    settings = _settings(task, config, device, random_state, augmentation, overrides)
    return Regressor(**settings)


def make_classifier(
    config: str | os.PathLike[str] | dict[str, Any] | TrainingConfig = "classification",
    *,
    device: str | torch.device = "auto",
    random_state: int | None = None,
    augmentation: Augmentation = "config",
    class_weight: str | Mapping[Any, float] | None = None,
    **overrides: Any,
) -> Classifier:
    """Build an EEGClassifier from a configuration.

    Parameters
    ----------
    config : str, path-like, dict or TrainingConfig, default="classification"
        What :func:`braindecode_sam.load_config` accepts. One whose criterion is a loss
        for regression needs another `criterion`; the net then takes its number of
        outputs from the labels, not from the configuration.
    device : str or torch.device, default="auto"
        As in :func:`make_regressor`.
    random_state : int or None, default=None
        As in :func:`make_regressor`.
    augmentation : "config", None or list of Transform, default="config"
        As in :func:`make_regressor`.
    class_weight : None, "balanced" or dict of label to float, default=None
        Weights of the classes in the loss; see
        :class:`~braindecode_sam.nets.Classifier`.
    **overrides
        Any parameter of an EEGClassifier, over the configuration's:
        ``classes=["left", "right"]``, ``max_epochs=3``. As in :func:`make_regressor`,
        `callbacks` are added to those of the net.

    Returns
    -------
    net : Classifier
        An EEGClassifier, not initialized, with :class:`~braindecode_sam.FastEEGNeX` as
        its module (pass ``module="EEGNeX"`` for the stock one). It takes and predicts
        labels of any kind. All windows are trained on (``train_split=None``); pass
        ``train_split=SubjectSplit(0.2)`` to validate inside.

    Raises
    ------
    TypeError
        If `augmentation` is neither "config", None nor made of transforms.
    ValueError
        If the configuration is not valid or for regression, or the device does not
        exist.
    RuntimeError
        If PyTorch cannot use the device here.

    Examples
    --------
    >>> import numpy as np
    >>> from braindecode_sam import make_classifier
    >>> X = np.random.default_rng(0).normal(size=(8, 4, 128)).astype("float32")
    >>> net = make_classifier(
    ...     device="cpu", max_epochs=1, batch_size=4, verbose=0, random_state=0)
    >>> net = net.fit(X, ["left", "right"] * 4)
    >>> net.classes_.tolist(), net.predict_proba(X).shape
    (['left', 'right'], (8, 2))
    """
    task = _CLASSIFICATION
    settings = _settings(task, config, device, random_state, augmentation, overrides)
    return Classifier(class_weight=class_weight, **settings)


def _settings(
    task: _Task,
    config: str | os.PathLike[str] | dict[str, Any] | TrainingConfig,
    device: str | torch.device,
    random_state: int | None,
    augmentation: Augmentation,
    overrides: dict[str, Any],
) -> dict[str, Any]:
    """Parameters of a net of either kind."""
    config = load_config(config)
    _check_criterion(task, config, overrides)
    optimizer = overrides.pop("optimizer", SAM)
    settings = {
        **_module_settings(config, task),
        **_optimizer_settings(config.optimizer, optimizer),
        **_augmentation_settings(config.augmentation, augmentation),
        **dict(config.training),
        "train_split": None,
        "callbacks": [
            *([] if random_state is None else [("seed", SeedCallback(random_state))]),
            *_callbacks(optimizer, overrides.pop("callbacks", None)),
        ],
        "device": resolve_device(device),
    }
    return settings | overrides


def _check_criterion(
    task: _Task, config: TrainingConfig, overrides: Mapping[str, Any]
) -> None:
    is_own = "criterion" in overrides
    criterion = overrides["criterion"] if is_own else config.training.criterion
    loss = criterion if isinstance(criterion, type) else type(criterion)
    if loss in task.foreign_losses:  # one derived from them may be for anything
        source = "criterion" if is_own else f"config={config.name!r}"
        raise ValueError(
            f"{task.builder} cannot train with {loss.__name__}, got it from {source};"
            f" expected config={task.accepted}"
        )


def _callbacks(optimizer: Any, further: Iterable[Any] | None) -> list[Any]:
    sam = [("sam", SAMCallback())] if is_sam(optimizer) else []
    return [("window_check", WindowCheck()), *sam, *(further or [])]


def _module_settings(config: TrainingConfig, task: _Task) -> dict[str, Any]:
    model = config.model
    chosen = model.model_dump(exclude_unset=True, exclude={"model_name_"})
    if config.training.criterion in task.foreign_losses:
        chosen.pop("n_outputs", None)  # which is the other task's
    return {
        "module": f"Fast{model.model_name_}",
        **{f"module__{name}": value for name, value in chosen.items()},
    }


def _optimizer_settings(config: OptimizerConfig, optimizer: Any) -> dict[str, Any]:
    options = dict(config)
    lr = options.pop("lr")
    if not is_sam(optimizer):
        options = {"weight_decay": config.weight_decay}
    settings = {f"optimizer__{name}": value for name, value in options.items()}
    return {"optimizer": optimizer, "lr": lr, **settings}


def _augmentation_settings(
    config: AugmentationConfig | None, chosen: Augmentation
) -> dict[str, Any]:
    if isinstance(chosen, str) and chosen == "config":
        chosen = None if config is None else _transforms(config)
    if chosen is None:
        return {}
    transforms = [chosen] if isinstance(chosen, Transform) else chosen
    is_list = isinstance(transforms, (list, tuple))
    if not is_list or not all(isinstance(t, Transform) for t in transforms):
        raise TypeError(
            "augmentation must be 'config', None or a list of braindecode's"
            f" transforms, got {chosen!r}"
        )
    return {
        "iterator_train": AugmentedDataLoader,
        "iterator_train__transforms": list(transforms),
    }


def _transforms(config: AugmentationConfig) -> list[Transform]:
    transforms = [GaussianNoise(config.probability, std=config.noise_std)]
    if config.max_shift > 0:
        shift = TimeShift(config.probability, max_shift=config.max_shift)
        transforms.insert(0, shift)
    return transforms
