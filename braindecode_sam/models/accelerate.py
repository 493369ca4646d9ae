"""Upgrade stock models in place."""

from __future__ import annotations

import logging

import torch
from braindecode.models import EEGNet, EEGNeX

from braindecode_sam.models.fast import FastEEGNet, FastEEGNeX

log = logging.getLogger(__name__)

FASTER = {EEGNeX: FastEEGNeX, EEGNet: FastEEGNet}


def accelerate(module: torch.nn.Module) -> list[str]:
    """Turn every stock EEGNeX and EEGNet inside a module into its fast counterpart.

    Parameters, buffers, hooks and references to them, an optimizer's say, stay what
    they are: only the forward pass changes. Subclasses, which may compute something
    else, are left alone.

    Parameters
    ----------
    module : torch.nn.Module
        A model, or something around one or several.

    Returns
    -------
    upgraded : list of str
        Names of the submodules that were upgraded (``""`` for the module itself),
        which a log line (level INFO) tells too.

    Examples
    --------
    >>> import torch
    >>> from braindecode.models import EEGNeX
    >>> from braindecode_sam.models import accelerate
    >>> model = torch.nn.Sequential(EEGNeX(n_chans=4, n_times=200, n_outputs=1))
    >>> accelerate(model), type(model[0]).__name__
    (['0'], 'FastEEGNeX')
    """
    upgraded = []
    for name, child in module.named_modules():
        faster = FASTER.get(type(child))
        if faster is not None:
            child.__class__ = faster
            child.upgrade_layers()
            upgraded.append(name)
            log.info("%s is now a %s", name or "the module", faster.__name__)
    return upgraded
