"""Training configurations in JSON, and the models that validate them.

``challenge_1`` and ``challenge_2`` are the two configurations of the competition notes,
which describe an entry to a 2025 competition on EEG regression. ``classification`` is
for labels, and for windows of any shape.
"""

import json
import os
import warnings
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import pydantic
import torch
from braindecode.models import EEGNeX
from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeFloat,
    PlainSerializer,
    PositiveFloat,
    PositiveInt,
)

from braindecode_sam._arguments import check_integer, check_number

with warnings.catch_warnings():
    # On import, braindecode makes a configuration class for each of its models, and
    # pydantic warns about one of them.
    warnings.filterwarnings("ignore", message="TypedDict class 'ChsInfoType'")
    from braindecode.models.config import SIGNAL_ARGS_TYPES, make_model_config

    # braindecode's class requires the shape of the windows, which nets infer.
    _WithoutShape: Any = make_model_config(EEGNeX, required=[])


def _load_class(value: Any, home: Any, base: type, accepted: str) -> type:
    """Look up a class in a module that is already imported, and nowhere else."""
    found = value
    if isinstance(value, str):
        name = value.rpartition(".")[2]
        found = getattr(home, name, None)
        if value not in (f"{home.__name__}.{name}", _path(found)):
            found = None
    is_right = isinstance(found, type) and issubclass(found, base)
    if not is_right or found is base:
        raise ValueError(f"expected {accepted}, or the class itself, got {value!r}")
    return found


def _load_criterion(value: Any) -> type:
    accepted = "the name of a loss in torch.nn such as 'torch.nn.MSELoss'"
    base: type = torch.nn.modules.loss._Loss
    if isinstance(value, type):  # passed by the caller's code, not read from a file
        base = torch.nn.Module
    return _load_class(value, torch.nn, base, accepted)


def _load_optimizer(value: Any) -> type:
    accepted = "the name of an optimizer in torch.optim such as 'torch.optim.AdamW'"
    return _load_class(value, torch.optim, torch.optim.Optimizer, accepted)


def _check_model(value: Any) -> Any:
    """Check the settings before braindecode does, which would import names in them."""
    if isinstance(value, pydantic.BaseModel):  # braindecode's own configuration
        value = value.model_dump(exclude_unset=True)
    if not isinstance(value, dict):
        return value
    # None means that the net infers it from the data.
    inferred = {name for name in SIGNAL_ARGS_TYPES if value.get(name) is None}
    value = {name: setting for name, setting in value.items() if name not in inferred}
    for name, setting in value.items():
        if isinstance(setting, str) and name != "model_name_":
            accepted = "the name of a layer in torch.nn such as 'torch.nn.ELU'"
            try:
                _load_class(setting, torch.nn, torch.nn.Module, accepted)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
        if name in ("n_chans", "n_times", "n_outputs"):
            check_integer(name, setting, 1)
        if name == "drop_prob":
            check_number(name, setting)
            if not 0 <= setting <= 1:
                raise ValueError(f"{name} must be between 0 and 1, got {setting!r}")
    return value


def _name(cls: type) -> str:
    """Return the name of a class in a configuration."""
    for home in (torch.nn, torch.optim):
        if getattr(home, cls.__name__, None) is cls:
            return f"{home.__name__}.{cls.__name__}"
    return _path(cls)


def _path(cls: Any) -> str:
    return f"{cls.__module__}.{cls.__qualname__}" if isinstance(cls, type) else ""


_Named = PlainSerializer(_name, return_type=str, when_used="json")
Criterion = Annotated[type, BeforeValidator(_load_criterion), _Named]
BaseOptimizer = Annotated[type, BeforeValidator(_load_optimizer), _Named]
Fraction = Annotated[float, Field(ge=0, le=1)]


class _Section(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", allow_inf_nan=False)


class EEGNeXConfig(_WithoutShape):
    """Settings of EEGNeX. The shape of the windows is optional."""


class OptimizerConfig(_Section):
    """SAM and its base optimizer.

    All fields are required.

    Parameters
    ----------
    base_optimizer : type
        Optimizer class of :mod:`torch.optim`. JSON has its name, such as
        ``"torch.optim.AdamW"``.
    lr : float
        Learning rate of the base optimizer, positive.
    weight_decay : float
        Weight decay of the base optimizer, non-negative.
    rho : float
        Radius of SAM's perturbation, non-negative.
    adaptive : bool
        Whether to measure the radius relative to the weights (ASAM).

    See Also
    --------
    braindecode_sam.SAM : What the parameters mean.
    """

    base_optimizer: BaseOptimizer
    lr: PositiveFloat
    weight_decay: NonNegativeFloat
    rho: NonNegativeFloat
    adaptive: bool


class AugmentationConfig(_Section):
    """Augmentation of training windows by TimeShift and GaussianNoise.

    All fields are required.

    Parameters
    ----------
    probability : float
        Probability with which each transform is applied to a window, from 0 to 1.
    max_shift : float
        Largest shift in time as a fraction of the window, from 0 to 1. 0 leaves out
        TimeShift.
    noise_std : float
        Standard deviation of the noise in the unit of the windows, non-negative.

    See Also
    --------
    braindecode_sam.TimeShift : Shift windows circularly in time.
    braindecode_sam.augmentation.GaussianNoise : Add Gaussian noise.
    """

    probability: Fraction
    max_shift: Fraction
    noise_std: NonNegativeFloat


class LoopConfig(_Section):
    """Settings of the training loop.

    All fields are required.

    Parameters
    ----------
    criterion : type
        Loss class of :mod:`torch.nn`. JSON has its name, such as
        ``"torch.nn.MSELoss"``.
    max_epochs : int
        Number of epochs, positive.
    batch_size : int
        Number of windows in a batch, positive.
    """

    criterion: Criterion
    max_epochs: PositiveInt
    batch_size: PositiveInt


class TrainingConfig(_Section):
    """A training configuration, from which the builders make a net.

    The builders are :func:`braindecode_sam.make_regressor` and
    :func:`braindecode_sam.make_classifier`. All fields are required. Unknown keys raise
    at every level.

    Parameters
    ----------
    name : str
        Name of the configuration, for error messages.
    model : dict
        Parameters of :class:`braindecode.models.EEGNeX`, and `model_name_`, which is
        ``"EEGNeX"``. `n_chans`, `n_times` and `n_outputs` are optional: nets infer them
        from the data.
    optimizer : OptimizerConfig
        SAM and its base optimizer.
    augmentation : AugmentationConfig or None
        Augmentation of training windows, if any.
    training : LoopConfig
        Loss, number of epochs and batch size.
    n_splits : int
        Number of cross-validation folds, at least 2. The builders do not use it.

    See Also
    --------
    braindecode_sam.load_config : Read a configuration from JSON.

    Examples
    --------
    >>> from braindecode_sam import load_config
    >>> config = load_config("challenge_1")
    >>> config.optimizer.rho, config.training.max_epochs
    (0.05, 30)
    >>> config.training.model_dump(mode="json")
    {'criterion': 'torch.nn.MSELoss', 'max_epochs': 30, 'batch_size': 32}
    """

    name: str
    model: Annotated[EEGNeXConfig, BeforeValidator(_check_model)]
    optimizer: OptimizerConfig
    augmentation: AugmentationConfig | None
    training: LoopConfig
    n_splits: Annotated[int, Field(ge=2)]


def config_names() -> list[str]:
    """List the configurations that come with the package.

    Returns
    -------
    names : list of str
        Names in alphabetical order.

    Examples
    --------
    >>> from braindecode_sam.configs import config_names
    >>> config_names()
    ['challenge_1', 'challenge_2', 'classification']
    """
    files = resources.files(__package__).iterdir()
    return sorted(Path(f.name).stem for f in files if f.name.endswith(".json"))


def load_config(
    config: str | os.PathLike[str] | dict[str, Any] | TrainingConfig,
) -> TrainingConfig:
    """Read a configuration.

    A configuration is data, not code. Class names are looked up in ``torch.nn`` and
    ``torch.optim`` only, and nothing is imported. Pass a custom loss or base optimizer
    to the builder, as in ``make_regressor(criterion=MyLoss)``.

    Parameters
    ----------
    config : str, path-like, dict or TrainingConfig
        Name of a configuration that comes with the package, path of a ``.json`` file,
        or the contents of such a file.

    Returns
    -------
    config : TrainingConfig
        The validated configuration.

    Raises
    ------
    ValueError
        If the name is unknown, a key is unknown or missing, or a value is out of range.
    FileNotFoundError
        If the file does not exist.

    See Also
    --------
    make_regressor : Build an EEGRegressor from a configuration.
    make_classifier : Build an EEGClassifier from a configuration.

    Examples
    --------
    >>> from braindecode_sam import load_config
    >>> load_config("challenge_2").model.n_chans
    104
    """
    if isinstance(config, TrainingConfig):
        return config
    if isinstance(config, (str, os.PathLike)):
        config = _read(config)
    return TrainingConfig.model_validate(config)


def _read(config: str | os.PathLike[str]) -> Any:
    if str(config).endswith(".json"):
        return _read_file(config)
    if config not in config_names():
        raise ValueError(
            f"config must be one of {', '.join(config_names())}, the path of a .json"
            f" file or a dict, got {config!r}"
        )
    return json.loads(
        resources.files(__package__).joinpath(f"{config}.json").read_text()
    )


def _read_file(path: str | os.PathLike[str]) -> Any:
    try:
        return json.loads(Path(path).read_text())
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise ValueError(
            f"config must be a file that contains JSON, got {str(path)!r}: {error}"
        ) from error
