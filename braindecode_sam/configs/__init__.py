"""Training configurations in JSON.

``challenge_1`` and ``challenge_2`` are the two configurations of the competition notes,
which describe an entry to a 2025 competition on EEG regression. ``classification`` is
for labels, and for windows of any shape.
"""

import json
import os
import warnings
from copy import copy
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import pydantic
import torch
from braindecode.models import EEGNeX
from pydantic import BeforeValidator, NonNegativeFloat, PositiveFloat, PositiveInt

from braindecode_sam._arguments import as_builtin

with warnings.catch_warnings():
    # On import, braindecode makes a configuration class for each of its models, and
    # pydantic warns about one of them.
    warnings.filterwarnings("ignore", message="TypedDict class 'ChsInfoType'")
    from braindecode.models.config import make_model_config

    # braindecode's class requires the shape of the windows, which nets infer.
    _WithoutShape: Any = make_model_config(EEGNeX, required=[])

__all__ = ["TrainingConfig", "load_config"]


def _find_class(value: Any, home: Any, base: type) -> type:
    """Look up a class in a module that is already imported, and nowhere else."""
    found = value
    if isinstance(value, str):
        found = getattr(home, value.rpartition(".")[2], None)
        found = found if isinstance(found, type) and value in _names(found) else None
    if not isinstance(found, type) or not issubclass(found, base) or found is base:
        raise ValueError(
            f"expected a subclass of {base.__name__}, or its name in {home.__name__},"
            f" got {value!r}"
        )
    return found


def _names(cls: type) -> list[str]:
    """Return the short name of a class, if torch has one, and the full name."""
    homes = [h for h in (torch.nn, torch.optim) if getattr(h, cls.__name__, 0) is cls]
    short = [f"{home.__name__}.{cls.__name__}" for home in homes]
    return [*short, f"{cls.__module__}.{cls.__qualname__}"]


_find_module = partial(_find_class, home=torch.nn, base=torch.nn.Module)
_find_optimizer = partial(_find_class, home=torch.optim, base=torch.optim.Optimizer)
_Named = pydantic.PlainSerializer(lambda cls: _names(cls)[0], str, when_used="json")
_Fraction = Annotated[float, pydantic.Field(ge=0, le=1)]
_Size = Annotated[int, pydantic.Field(gt=0, strict=True), BeforeValidator(as_builtin)]


class _Model(_WithoutShape):
    n_chans: _Size | None = None
    n_times: _Size | None = None
    n_outputs: _Size | None = None

    @pydantic.field_validator("*", mode="before")
    @classmethod
    def _find_layers(cls, value: Any, info: pydantic.ValidationInfo) -> Any:
        """Look up layers by name; braindecode's class would import any name."""
        is_layer = isinstance(value, str) and info.field_name != "model_name_"
        return _find_module(value) if is_layer else value


def _copy_settings(value: Any) -> Any:
    """Copy a dict; braindecode's class writes into it and fails for other types."""
    if not isinstance(value, (dict, _Model)):
        raise ValueError(f"expected a dict, got {value!r}")
    return copy(value)


class _Section(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", allow_inf_nan=False)


class _Optimizer(_Section):
    base_optimizer: Annotated[type, BeforeValidator(_find_optimizer), _Named]
    lr: PositiveFloat
    weight_decay: NonNegativeFloat
    rho: NonNegativeFloat
    adaptive: bool


class _Augmentation(_Section):
    probability: _Fraction
    max_shift: _Fraction
    noise_std: NonNegativeFloat


class _Loop(_Section):
    criterion: Annotated[type, BeforeValidator(_find_module), _Named]
    max_epochs: PositiveInt
    batch_size: PositiveInt


class TrainingConfig(_Section):
    """A training configuration, as :func:`braindecode_sam.load_config` returns it.

    All fields are required, also those of each dict, and unknown keys raise.

    Parameters
    ----------
    name : str
        Name of the configuration, for error messages.
    model : dict
        Parameters of :class:`braindecode.models.EEGNeX`, and `model_name_`, which is
        ``"EEGNeX"``. `n_chans`, `n_times` and `n_outputs` are optional: nets infer them
        from the data.
    optimizer : dict
        `base_optimizer`, a class of :mod:`torch.optim` or its name, with its `lr` and
        `weight_decay`, and `rho` and `adaptive` of :class:`braindecode_sam.SAM`.
    augmentation : dict or None
        `probability` with which each transform is applied to a training window,
        `max_shift` of :class:`braindecode_sam.TimeShift` as a fraction of the window,
        and `noise_std` of :class:`braindecode_sam.augmentation.GaussianNoise` in the
        unit of the windows. If `max_shift` is 0, windows are not shifted.
    training : dict
        `criterion`, a loss class of :mod:`torch.nn` or its name, `max_epochs` and
        `batch_size`.
    n_splits : int
        Number of cross-validation folds, at least 2. The builders do not use it.

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
    model: Annotated[_Model, BeforeValidator(_copy_settings)]
    optimizer: _Optimizer
    augmentation: _Augmentation | None
    training: _Loop
    n_splits: Annotated[int, pydantic.Field(ge=2)]


def load_config(
    config: str | os.PathLike[str] | dict[str, Any] | TrainingConfig,
) -> TrainingConfig:
    """Read a configuration.

    :func:`braindecode_sam.make_regressor` and :func:`braindecode_sam.make_classifier`
    build nets from it. It is data, not code: class names are looked up in ``torch.nn``
    and ``torch.optim`` only, and nothing is imported. Pass a custom loss or base
    optimizer to the builder, as in ``make_regressor(criterion=MyLoss)``.

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
    OSError
        If the file cannot be read.

    Examples
    --------
    >>> from braindecode_sam import load_config
    >>> load_config("challenge_2").model.n_chans
    104
    """
    if isinstance(config, (str, os.PathLike)):
        config = _read(config)
    return TrainingConfig.model_validate(config)


def _read(config: str | os.PathLike[str]) -> Any:
    ours = {file.stem: file for file in sorted(Path(__file__).parent.glob("*.json"))}
    path = Path(config) if str(config).endswith(".json") else ours.get(str(config))
    if path is None:
        raise ValueError(
            f"config must be one of {', '.join(ours)}, the path of a .json file or a"
            f" dict, got {config!r}"
        )
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{str(path)!r} must contain JSON: {error}") from error
