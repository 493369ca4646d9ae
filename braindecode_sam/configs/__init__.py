"""Training configurations: data in JSON, and the model that reads them.

``challenge_1`` and ``challenge_2`` are the two configurations with which a team took
part in a 2025 competition on EEG regression. ``classification`` is for labels, in
windows of any shape.
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
    # braindecode makes a configuration class for each of its models while this is
    # imported, one of them in a way that pydantic warns about.
    warnings.filterwarnings("ignore", message="TypedDict class 'ChsInfoType'")
    from braindecode.models.config import SIGNAL_ARGS_TYPES, make_model_config

    # braindecode's own needs the shape of the windows, which nets infer from the data.
    _WithoutShape: Any = make_model_config(EEGNeX, required=[])


def _load_class(value: Any, home: Any, base: type, accepted: str) -> type:
    """Look a class up in a module that is imported already, and nowhere else."""
    found = value
    if isinstance(value, str):
        name = value.rpartition(".")[2]
        found = getattr(home, name, None)
        if value not in (f"{home.__name__}.{name}", _path(found)):
            found = None
    is_right = isinstance(found, type) and issubclass(found, base)
    if not is_right or found is base:
        raise ValueError(f"expected {accepted}, or such a class, got {value!r}")
    return found


def _load_criterion(value: Any) -> type:
    accepted = "the name of a loss in torch.nn such as 'torch.nn.MSELoss'"
    base: type = torch.nn.modules.loss._Loss
    if isinstance(value, type):  # from somebody's own code, not from a file
        base = torch.nn.Module
    return _load_class(value, torch.nn, base, accepted)


def _load_optimizer(value: Any) -> type:
    accepted = "the name of an optimizer in torch.optim such as 'torch.optim.AdamW'"
    return _load_class(value, torch.optim, torch.optim.Optimizer, accepted)


def _check_model(value: Any) -> Any:
    """Look at a model's settings before braindecode does, which would import names."""
    if isinstance(value, pydantic.BaseModel):  # braindecode's own configuration
        value = value.model_dump(exclude_unset=True)
    if not isinstance(value, dict):
        return value
    # Left to the data, or a net would be given None.
    left = {name for name in SIGNAL_ARGS_TYPES if value.get(name) is None}
    value = {name: setting for name, setting in value.items() if name not in left}
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
    """Name a class as a configuration does."""
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
    """Settings of EEGNeX, of which the shape of the windows may be left out."""


class OptimizerConfig(_Section):
    """SAM and its base optimizer, the latter as ``torch.optim.AdamW``, say."""

    base_optimizer: BaseOptimizer
    lr: PositiveFloat
    weight_decay: NonNegativeFloat
    rho: NonNegativeFloat
    adaptive: bool


class AugmentationConfig(_Section):
    """TimeShift and GaussianNoise, each applied with `probability`.

    With a `max_shift` of 0 there is no TimeShift.
    """

    probability: Fraction
    max_shift: Fraction
    noise_std: NonNegativeFloat


class LoopConfig(_Section):
    """What the training loop is made of."""

    criterion: Criterion
    max_epochs: PositiveInt
    batch_size: PositiveInt


class TrainingConfig(_Section):
    """All that a builder needs to make a net.

    The builders are :func:`braindecode_sam.make_regressor` and
    :func:`braindecode_sam.make_classifier`. An `augmentation` of None is none. Unknown
    keys are refused at every level.
    """

    name: str
    model: Annotated[EEGNeXConfig, BeforeValidator(_check_model)]
    optimizer: OptimizerConfig
    augmentation: AugmentationConfig | None
    training: LoopConfig
    n_splits: Annotated[int, Field(ge=2)]


def config_names() -> list[str]:
    """Names of the configurations that come with the package.

    Returns
    -------
    names : list of str
        In alphabetical order.

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

    A configuration is data, not code: names in it are looked up in ``torch.nn`` and
    ``torch.optim`` alone, and nothing is imported. Pass a loss or a base optimizer of
    your own to the builder, ``make_regressor(criterion=MyLoss)``.

    Parameters
    ----------
    config : str, path-like, dict or TrainingConfig
        Name of one that comes with the package, path of a JSON file (``.json``), or
        its contents.

    Returns
    -------
    config : TrainingConfig
        Checked.

    Raises
    ------
    ValueError
        If there is none of that name, a key is unknown or missing, or a value is
        out of its range.
    FileNotFoundError
        If there is no such file.

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
            f"config must be a file with JSON in it, got {str(path)!r}: {error}"
        ) from error
