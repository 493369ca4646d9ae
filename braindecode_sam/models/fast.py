"""braindecode's models with a linear front, sped up: the same numbers, less work."""

from __future__ import annotations

import functools
from typing import Any

from braindecode.models import (
    ATCNet,
    AttentionBaseNet,
    CTNet,
    EEGConformer,
    EEGITNet,
    EEGNet,
    EEGNeX,
    MSVTNet,
    TCFormer,
)

from braindecode_sam.models._pickling import allow_pickling
from braindecode_sam.models.speed_up import speed_up

_Module: Any = object  # any module; what the mixin calls is its model's

# For the card of a model on the Hugging Face Hub, where braindecode would name itself.
_CARD = {"library_name": "braindecode_sam", "repo_url": "", "docs_url": ""}


class _Fast(_Module):
    """Builds the stock model and speeds it up."""

    # braindecode would append that the class is to be imported from there.
    _HUB_NOTES_TEMPLATE = ""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        if _Fast in cls.__bases__:  # not what users derive from a fast model
            stock: Any = cls.__bases__[1]

            @functools.wraps(stock.__init__)
            def init(self: Any, *args: Any, **kwargs: Any) -> None:
                stock.__init__(self, *args, **kwargs)
                speed_up(self)

            cls.__init__ = init  # type: ignore[method-assign]
        card = _CARD if hasattr(cls, "_hub_mixin_info") else {}  # with huggingface_hub
        super().__init_subclass__(**(card | kwargs))

    def __getstate__(self) -> dict[str, Any]:
        allow_pickling(self)
        return self.__dict__.copy()


class FastEEGNeX(_Fast, EEGNeX):
    """EEGNeX, sped up: the same numbers, a fraction of the work.

    Constructor, parameters, buffers, ``state_dict`` and initialization are those of
    :class:`braindecode.models.EEGNeX`, so weights move freely between the two. Only
    the forward pass differs, and only up to rounding: :func:`braindecode_sam.speed_up`
    tells how, and where the stock layers run.

    Examples
    --------
    >>> import torch
    >>> from braindecode.models import EEGNeX
    >>> from braindecode_sam import FastEEGNeX
    >>> stock = EEGNeX(n_chans=4, n_times=200, n_outputs=1).eval()
    >>> fast = FastEEGNeX(n_chans=4, n_times=200, n_outputs=1).eval()
    >>> _ = fast.load_state_dict(stock.state_dict())
    >>> x = torch.randn(2, 4, 200)
    >>> torch.allclose(fast(x), stock(x), atol=1e-5)
    True
    """


class FastEEGNet(_Fast, EEGNet):
    """A :class:`braindecode.models.EEGNet`, sped up as :class:`FastEEGNeX` is."""


class FastEEGConformer(_Fast, EEGConformer):
    """A :class:`braindecode.models.EEGConformer`, sped up as :class:`FastEEGNeX` is."""


class FastCTNet(_Fast, CTNet):
    """A :class:`braindecode.models.CTNet`, sped up as :class:`FastEEGNeX` is."""


class FastATCNet(_Fast, ATCNet):
    """A :class:`braindecode.models.ATCNet`, sped up as :class:`FastEEGNeX` is."""


class FastAttentionBaseNet(_Fast, AttentionBaseNet):
    """An AttentionBaseNet of braindecode, sped up as :class:`FastEEGNeX` is."""


class FastMSVTNet(_Fast, MSVTNet):
    """A :class:`braindecode.models.MSVTNet`, sped up as :class:`FastEEGNeX` is."""


class FastEEGITNet(_Fast, EEGITNet):
    """A :class:`braindecode.models.EEGITNet`, sped up as :class:`FastEEGNeX` is."""


class FastTCFormer(_Fast, TCFormer):
    """A :class:`braindecode.models.TCFormer`, sped up as :class:`FastEEGNeX` is."""


FAST: tuple[type[Any], ...] = tuple(_Fast.__subclasses__())
