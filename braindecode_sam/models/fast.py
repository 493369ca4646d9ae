"""braindecode's models, sped up when they are built.

Examples
--------
>>> import torch
>>> from braindecode.models import EEGNeX
>>> from braindecode_sam import FastEEGNeX
>>> original = EEGNeX(n_chans=4, n_times=200, n_outputs=1).eval()
>>> fast = FastEEGNeX(n_chans=4, n_times=200, n_outputs=1).eval()
>>> _ = fast.load_state_dict(original.state_dict())
>>> x = torch.randn(2, 4, 200)
>>> torch.allclose(fast(x), original(x), atol=1e-5)
True
"""

from __future__ import annotations

import functools
from typing import Any

import braindecode.models

from braindecode_sam.models._pickling import allow_pickling
from braindecode_sam.models.speed_up import speed_up

# Overrides braindecode's own entries on a model card of the Hugging Face Hub.
_CARD = {"library_name": "braindecode_sam", "repo_url": "", "docs_url": ""}
_DOC = """{name} that computes the same, up to rounding, faster on a CPU.

    Parameters, buffers, ``state_dict`` and initialization are those of
    :class:`braindecode.models.{name}`, and either class loads weights of the other.
    Only the forward pass differs. :func:`braindecode_sam.speed_up` describes how, and
    when the original layers run.

    Parameters
    ----------
    n_chans : int
        Number of EEG channels.
    n_times : int
        Number of samples in a window.
    n_outputs : int
        Number of outputs.
    exact_masks : bool, default=True
        Draw the dropout masks of torch. With False, other masks of the same
        distribution are drawn faster, as :func:`braindecode_sam.speed_up` says. It is
        not part of the configuration that ``save_pretrained`` saves.
    **kwargs
        Further parameters of :class:`braindecode.models.{name}`.

    See Also
    --------
    braindecode_sam.speed_up : Speed up any other model.
    braindecode.models.{name} : The original model, with its references.
    """


class _Fast:
    """Mixin of models that :func:`speed_up` has changed."""

    # braindecode's notes would import the class from braindecode.models.
    _HUB_NOTES_TEMPLATE = ""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        card = _CARD if hasattr(cls, "_hub_mixin_info") else {}  # with huggingface_hub
        super().__init_subclass__(**(card | kwargs))

    def __getstate__(self: Any) -> dict[str, Any]:
        allow_pickling(self)
        state: dict[str, Any] = self.__dict__.copy()
        return state


def _fast(name: str) -> Any:
    original = getattr(braindecode.models, name)

    @functools.wraps(original.__init__)
    def init(self: Any, *args: Any, exact_masks: bool = True, **kwargs: Any) -> None:
        original.__init__(self, *args, **kwargs)
        # The configuration that huggingface_hub saves is that of the original model.
        (getattr(self, "_hub_mixin_config", None) or {}).pop("exact_masks", None)
        speed_up(self, exact_masks=exact_masks)

    own = {"__init__": init, "__doc__": _DOC.format(name=name), "__module__": __name__}
    return type(f"Fast{name}", (_Fast, original), own)


FastATCNet = _fast("ATCNet")
FastAttentionBaseNet = _fast("AttentionBaseNet")
FastCTNet = _fast("CTNet")
FastEEGConformer = _fast("EEGConformer")
FastEEGITNet = _fast("EEGITNet")
FastEEGInceptionERP = _fast("EEGInceptionERP")
FastEEGInceptionMI = _fast("EEGInceptionMI")
FastEEGNeX = _fast("EEGNeX")
FastEEGNet = _fast("EEGNet")
FastEEGTCNet = _fast("EEGTCNet")
FastEMG2QwertyNet = _fast("EMG2QwertyNet")
FastFBMSNet = _fast("FBMSNet")
FastIFNet = _fast("IFNet")
FastMSVTNet = _fast("MSVTNet")
FastSPARCNet = _fast("SPARCNet")
FastSleepStagerChambon2018 = _fast("SleepStagerChambon2018")
FastTCFormer = _fast("TCFormer")
FastTIDNet = _fast("TIDNet")
FastTSception = _fast("TSception")

FAST: tuple[type[Any], ...] = tuple(_Fast.__subclasses__())
