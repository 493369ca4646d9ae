"""Training configurations: data in JSON, and the model that reads them.

``challenge_1`` and ``challenge_2`` are the two configurations with which a team took
part in a 2025 competition on EEG regression.
"""

import json
import os
import warnings
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import pydantic
from pydantic import Field, ImportString, NonNegativeFloat, PositiveFloat, PositiveInt

with warnings.catch_warnings():
    # braindecode makes a configuration class for each of its models while this is
    # imported, one of them in a way that pydantic warns about.
    warnings.filterwarnings("ignore", message="TypedDict class 'ChsInfoType'")
    from braindecode.models.config import EEGNeXConfig

Fraction = Annotated[float, Field(ge=0, le=1)]


class _Section(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", allow_inf_nan=False)


class OptimizerConfig(_Section):
    """SAM and its base optimizer, the latter by its import path."""

    base_optimizer: ImportString
    lr: PositiveFloat
    weight_decay: NonNegativeFloat
    rho: NonNegativeFloat
    adaptive: bool


class AugmentationConfig(_Section):
    """TimeShift and GaussianNoise, each applied with `probability`."""

    probability: Fraction
    max_shift: Fraction
    noise_std: NonNegativeFloat


class LoopConfig(_Section):
    """What the training loop is made of."""

    criterion: ImportString
    max_epochs: PositiveInt
    batch_size: PositiveInt


class TrainingConfig(_Section):
    """All that :func:`braindecode_sam.make_regressor` needs to build a net.

    Unknown keys are refused at every level.
    """

    name: str
    model: EEGNeXConfig
    optimizer: OptimizerConfig
    augmentation: AugmentationConfig
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
    ['challenge_1', 'challenge_2']
    """
    files = resources.files(__package__).iterdir()
    return sorted(Path(f.name).stem for f in files if f.name.endswith(".json"))


def load_config(
    config: str | os.PathLike[str] | dict[str, Any] | TrainingConfig,
) -> TrainingConfig:
    """Read a configuration.

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
