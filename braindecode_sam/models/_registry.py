"""Registration of this package's models in braindecode."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from braindecode.models import util


def register(models: Iterable[type[torch.nn.Module]]) -> None:
    """Register models by name, for ``EEGRegressor("FastEEGNeX")``.

    Parameters
    ----------
    models : iterable of type
        Model classes.
    """
    # braindecode fills its registry on the first look-up by name, if it is empty.
    if not util.models_dict:
        util._init_models_dict()
    util.models_dict.update({model.__name__: model for model in models})
