"""Builders of nets from configurations, where optimizer, models and callbacks meet."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from braindecode.augmentation import Transform

from braindecode_sam.augmentation import (
    AugmentedDataLoader,
    GaussianNoise,
    TimeShift,
)
from braindecode_sam.callbacks import SAMCallback, WindowCheck
from braindecode_sam.configs import TrainingConfig, load_config
from braindecode_sam.device import resolve_device
from braindecode_sam.nets import Classifier, Regressor
from braindecode_sam.optim import SAM

Augmentation: TypeAlias = str | Transform | Sequence[Transform] | None


class _Task(NamedTuple):
    """A builder and the losses of torch that belong to the other one."""

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
        A configuration, as :func:`braindecode_sam.load_config` accepts it. If its
        criterion is a loss for classification, pass another `criterion`. The net then
        infers its number of outputs from the targets.
    device : str or torch.device, default="auto"
        A device, as :func:`braindecode_sam.resolve_device` accepts it.
    random_state : int or None, default=None
        Seed of weight initialization, shuffling, augmentation and dropout; see
        :class:`~braindecode_sam.nets.Regressor`. Pass also ``n_threads=1`` for the same
        scores in any number of workers.
    augmentation : "config", None or list of Transform, default="config"
        Transforms of :mod:`braindecode.augmentation` for training windows. "config"
        takes those of the configuration, unless there is an `iterator_train` among the
        `overrides`. None takes none.
    **overrides
        Parameters of EEGRegressor that replace the configuration's, such as
        ``max_epochs=3``, ``optimizer__base_optimizer=torch.optim.SGD`` or
        ``module__n_chans=19``. `callbacks` are added to the built-in ones:
        ``window_check`` checks the data, and ``sam`` records the sharpness if the
        optimizer is a SAM. Another optimizer, as in ``optimizer=torch.optim.AdamW``,
        gets the configuration's learning rate and weight decay.

    Returns
    -------
    net : Regressor
        An EEGRegressor, not initialized. Its module is
        :class:`~braindecode_sam.FastEEGNeX`; pass ``module="EEGNeX"`` for the original
        model. It trains on all windows (``train_split=None``); pass
        ``train_split=SubjectSplit(0.2)`` to hold out subjects for validation.

    Raises
    ------
    TypeError
        If `augmentation` is neither "config", None nor a list of transforms.
    ValueError
        If the configuration is invalid or for classification, or the device does not
        exist.
    RuntimeError
        If PyTorch cannot use the device.

    See Also
    --------
    make_classifier : Build an EEGClassifier.
    load_config : Read a configuration.

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
        A configuration, as :func:`braindecode_sam.load_config` accepts it. If its
        criterion is a loss for regression, pass another `criterion`. The net then
        infers its number of outputs from the labels.
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
        Parameters of EEGClassifier that replace the configuration's, such as
        ``classes=["left", "right"]`` or ``max_epochs=3``. As in
        :func:`make_regressor`, `callbacks` are added to the built-in ones.

    Returns
    -------
    net : Classifier
        An EEGClassifier, not initialized, that accepts labels of any kind. Its module
        is :class:`~braindecode_sam.FastEEGNeX`; pass ``module="EEGNeX"`` for the
        original model. It trains on all windows (``train_split=None``); pass
        ``train_split=SubjectSplit(0.2)`` to hold out subjects for validation.

    Raises
    ------
    TypeError
        If `augmentation` is neither "config", None nor a list of transforms.
    ValueError
        If the configuration is invalid or for regression, or the device does not exist.
    RuntimeError
        If PyTorch cannot use the device.

    See Also
    --------
    make_regressor : Build an EEGRegressor.
    load_config : Read a configuration.

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
    """Return the parameters of a net for either task."""
    config = load_config(config)
    _check_criterion(task, config, overrides)
    optimizer = overrides.pop("optimizer", SAM)
    if not callable(optimizer) or isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(
            "optimizer must be a class such as braindecode_sam.SAM or"
            f" torch.optim.AdamW, got {optimizer!r}"
        )
    if isinstance(augmentation, str) and "iterator_train" in overrides:
        augmentation = None
    has_instance = isinstance(overrides.get("module"), torch.nn.Module)
    settings = {
        **({} if has_instance else _module_settings(config, task)),
        **_optimizer_settings(config.optimizer, optimizer),
        **_augmentation_settings(config.augmentation, augmentation),
        **dict(config.training),
        "train_split": None,
        "callbacks": _callbacks(optimizer, overrides.pop("callbacks", None)),
        "random_state": random_state,
        "device": resolve_device(device),
    }
    return settings | overrides


def _check_criterion(
    task: _Task, config: TrainingConfig, overrides: Mapping[str, Any]
) -> None:
    is_own = "criterion" in overrides
    criterion = overrides["criterion"] if is_own else config.training.criterion
    loss = criterion if isinstance(criterion, type) else type(criterion)
    if loss in task.foreign_losses:  # not a subclass, which may suit either task
        source = "criterion" if is_own else f"config={config.name!r}"
        raise ValueError(
            f"{task.builder} cannot train with {loss.__name__}, given by {source};"
            f" expected config={task.accepted}"
        )


def _callbacks(optimizer: Any, further: Iterable[Any] | None) -> list[Any]:
    if isinstance(further, str):
        raise ValueError(
            f"callbacks must be a list of callbacks or None, got {further!r}; single"
            " ones are disabled by name, such as callbacks__window_check=None"
        )
    sam = [("sam", SAMCallback())] if _is_sam(optimizer) else []
    return [("window_check", WindowCheck()), *sam, *(further or [])]


def _module_settings(config: TrainingConfig, task: _Task) -> dict[str, Any]:
    model = config.model
    chosen = model.model_dump(
        exclude_unset=True, exclude_none=True, exclude={"model_name_"}
    )
    if config.training.criterion in task.foreign_losses:
        chosen.pop("n_outputs", None)  # that of the other task
    return {
        "module": f"Fast{model.model_name_}",
        **{f"module__{name}": value for name, value in chosen.items()},
    }


def _optimizer_settings(config: Any, optimizer: Any) -> dict[str, Any]:
    options = dict(config)
    lr = options.pop("lr")
    if not _is_sam(optimizer):
        options = {"weight_decay": config.weight_decay}
    settings = {f"optimizer__{name}": value for name, value in options.items()}
    return {"optimizer": optimizer, "lr": lr, **settings}


def _augmentation_settings(config: Any, chosen: Augmentation) -> dict[str, Any]:
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


def _transforms(config: Any) -> list[Transform]:
    transforms = [GaussianNoise(config.probability, std=config.noise_std)]
    if config.max_shift > 0:
        shift = TimeShift(config.probability, max_shift=config.max_shift)
        transforms.insert(0, shift)
    return transforms


def _is_sam(optimizer: Any) -> bool:
    return isinstance(optimizer, type) and issubclass(optimizer, SAM)
