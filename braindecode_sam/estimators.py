"""Builders of nets from configurations, where optimizer, models and callbacks meet."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

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


# Losses of torch that only one of the nets can train with.
_LOSSES = {
    Regressor: (
        torch.nn.MSELoss,
        torch.nn.L1Loss,
        torch.nn.SmoothL1Loss,
        torch.nn.HuberLoss,
        torch.nn.PoissonNLLLoss,
        torch.nn.GaussianNLLLoss,
    ),
    Classifier: (
        torch.nn.CrossEntropyLoss,
        torch.nn.NLLLoss,
        torch.nn.MultiMarginLoss,
    ),
}


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
        criterion is a loss for classification, pass another `criterion`. The shape of
        the windows and the number of outputs are those of the data.
    device : str or torch.device, default="auto"
        A device, as :func:`braindecode_sam.resolve_device` accepts it.
    random_state : int or None, default=None
        Seed of weight initialization, shuffling, augmentation and dropout; see
        :class:`~braindecode_sam.nets.Regressor`. Pass also ``n_threads=1`` for the same
        scores in any number of workers.
    augmentation : "config", None, Transform or list of Transform, default="config"
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
        If `augmentation` is neither "config", None nor transforms, or `optimizer` is no
        class.
    ValueError
        If the configuration is invalid or for classification, the device does not
        exist, or `callbacks` is text.
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
    own = {"random_state": random_state}
    return _built(Regressor, config, device, augmentation, own, overrides)


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
    device, random_state, augmentation
        As in :func:`make_regressor`.
    class_weight : None, "balanced" or dict of label to float, default=None
        Weights of the classes in the loss; see
        :class:`~braindecode_sam.nets.Classifier`.
    **overrides
        Parameters of EEGClassifier that replace the configuration's, such as
        ``classes=["left", "right"]`` or ``max_epochs=3``. `callbacks` are added to the
        built-in ones.

    Returns
    -------
    net : Classifier
        An EEGClassifier, not initialized, that accepts labels of any kind. Module and
        ``train_split`` are as in :func:`make_regressor`.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As in :func:`make_regressor`, but for a configuration for regression.

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
    own = {"random_state": random_state, "class_weight": class_weight}
    return _built(Classifier, config, device, augmentation, own, overrides)


def _built(
    kind: Any,
    config: str | os.PathLike[str] | dict[str, Any] | TrainingConfig,
    device: str | torch.device,
    augmentation: Augmentation,
    own: dict[str, Any],
    overrides: dict[str, Any],
) -> Any:
    """Build a net from the configuration and what replaces it."""
    config = load_config(config)
    other = Classifier if kind is Regressor else Regressor
    criterion = overrides.get("criterion", config.training.criterion)
    loss = criterion if isinstance(criterion, type) else type(criterion)
    if loss in _LOSSES[other]:  # not a subclass, which may suit either net
        given = "criterion" if "criterion" in overrides else f"config={config.name!r}"
        raise ValueError(
            f"make_{kind.__name__.lower()} cannot train with {loss.__name__}, given by"
            f" {given}; expected criterion=torch.nn.{_LOSSES[kind][0].__name__}, or a"
            " configuration with such a loss"
        )
    module = overrides.get("module", f"Fast{config.model.model_name_}")
    model = config.model.model_dump(
        exclude_unset=True, exclude_none=True, exclude={"model_name_"}
    )
    # Data may have another shape: the configuration's serves where there are none.
    shape = {n: model.pop(n) for n in ("n_chans", "n_times", "n_outputs") if n in model}
    if config.training.criterion in _LOSSES[other]:
        shape.pop("n_outputs", None)  # that of the other kind of net
    optimizer = overrides.pop("optimizer", SAM)
    if not callable(optimizer) or isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(
            "optimizer must be a class such as braindecode_sam.SAM or"
            f" torch.optim.AdamW, got {optimizer!r}"
        )
    is_sam = isinstance(optimizer, type) and issubclass(optimizer, SAM)
    options = dict(config.optimizer)
    lr = options.pop("lr")
    if not is_sam:
        options = {"weight_decay": options["weight_decay"]}
    callbacks = overrides.pop("callbacks", None)
    if isinstance(callbacks, str):
        raise ValueError(
            f"callbacks must be a list of callbacks or None, got {callbacks!r}; single"
            " ones are disabled by name, such as callbacks__window_check=None"
        )
    if isinstance(augmentation, str) and "iterator_train" in overrides:
        augmentation = None
    settings = {
        "module": module,
        **{f"module__{n}": v for n, v in model.items() if _takes(module, n)},
        "optimizer": optimizer,
        "lr": lr,
        **{f"optimizer__{name}": value for name, value in options.items()},
        **_augmentation_settings(config.augmentation, augmentation),
        **dict(config.training),
        "train_split": None,
        "callbacks": [
            ("window_check", WindowCheck()),
            *([("sam", SAMCallback())] if is_sam else []),
            *(callbacks or []),
        ],
        "device": resolve_device(device),
    }
    net = kind(**own, **settings | overrides)
    net.inferred_ = shape
    return net


def _takes(module: Any, name: str) -> bool:
    """Return whether a module is built with a parameter of the configuration's model.

    The module may be one of the user's own that has none of them.
    """
    if isinstance(module, torch.nn.Module):
        return False
    if isinstance(module, str):  # of braindecode
        return True
    parameters = inspect.signature(module).parameters
    has_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    return has_any or name in parameters


def _augmentation_settings(config: Any, chosen: Augmentation) -> dict[str, Any]:
    if isinstance(chosen, str) and chosen == "config":
        chosen = None
        if config is not None:
            chosen = [GaussianNoise(config.probability, std=config.noise_std)]
            if config.max_shift > 0:
                shift = TimeShift(config.probability, max_shift=config.max_shift)
                chosen.insert(0, shift)
    if chosen is None:
        return {}
    transforms = [chosen] if isinstance(chosen, Transform) else chosen
    is_list = isinstance(transforms, (list, tuple))
    if not is_list or not all(isinstance(t, Transform) for t in transforms):
        raise TypeError(
            "augmentation must be 'config', None, or one or a list of braindecode's"
            f" transforms, got {chosen!r}"
        )
    return {
        "iterator_train": AugmentedDataLoader,
        "iterator_train__transforms": list(transforms),
    }
