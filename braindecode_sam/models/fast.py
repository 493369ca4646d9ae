"""braindecode's models with a fused linear front, equal up to rounding."""

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

_Module: Any = object  # the mixin calls methods of its model

# Overrides braindecode's own entries on a model card of the Hugging Face Hub.
_CARD = {"library_name": "braindecode_sam", "repo_url": "", "docs_url": ""}


class _Fast(_Module):
    """Mixin that builds the original model and calls :func:`speed_up` on it."""

    # braindecode's notes would import the class from braindecode.models.
    _HUB_NOTES_TEMPLATE = ""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        if _Fast in cls.__bases__:  # not a subclass of a fast model
            original: Any = cls.__bases__[1]

            @functools.wraps(original.__init__)
            def init(self: Any, *args: Any, **kwargs: Any) -> None:
                original.__init__(self, *args, **kwargs)
                speed_up(self)

            cls.__init__ = init  # type: ignore[method-assign]
        card = _CARD if hasattr(cls, "_hub_mixin_info") else {}  # with huggingface_hub
        super().__init_subclass__(**(card | kwargs))

    def __getstate__(self) -> dict[str, Any]:
        allow_pickling(self)
        return self.__dict__.copy()


class FastEEGNeX(_Fast, EEGNeX):
    """EEGNeX with a fused linear front: equal up to rounding, faster on a CPU.

    Constructor, parameters, buffers, ``state_dict`` and initialization are those of
    :class:`braindecode.models.EEGNeX`. Either class loads weights of the other. Only
    the forward pass differs. :func:`braindecode_sam.speed_up` describes how, and when
    the original layers run.

    Parameters
    ----------
    n_chans : int
        Number of EEG channels.
    n_times : int
        Number of samples in a window.
    n_outputs : int
        Number of outputs.
    **kwargs
        Further parameters of :class:`braindecode.models.EEGNeX`.

    See Also
    --------
    braindecode_sam.speed_up : Speed up any other model.
    braindecode.models.EEGNeX : The original model.

    References
    ----------
    .. [1] Chen, Teng, Chen, Pan and Geyer (2024). Toward reliable signals decoding for
       electroencephalogram: A benchmark study to EEGNeX. Biomedical Signal Processing
       and Control, 87, 105475. https://doi.org/10.1016/j.bspc.2023.105475

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


class FastEEGNet(_Fast, EEGNet):
    """EEGNet with a fused linear front: equal up to rounding, faster on a CPU.

    Its parameters are those of :class:`braindecode.models.EEGNet`.

    See Also
    --------
    FastEEGNeX : What all fast models have in common.
    braindecode_sam.speed_up : Speed up any other model.
    braindecode.models.EEGNet : The original model.

    References
    ----------
    .. [1] Lawhern et al. (2018). EEGNet: a compact convolutional neural network for
       EEG-based brain-computer interfaces. Journal of Neural Engineering, 15(5),
       056013. https://doi.org/10.1088/1741-2552/aace8c
    """


class FastEEGConformer(_Fast, EEGConformer):
    """EEGConformer with a fused linear front: equal up to rounding, faster on a CPU.

    Its parameters are those of :class:`braindecode.models.EEGConformer`.

    See Also
    --------
    FastEEGNeX : What all fast models have in common.
    braindecode_sam.speed_up : Speed up any other model.
    braindecode.models.EEGConformer : The original model.

    References
    ----------
    .. [1] Song, Zheng, Liu and Gao (2022). EEG Conformer: Convolutional Transformer for
       EEG Decoding and Visualization. IEEE Transactions on Neural Systems and
       Rehabilitation Engineering, 31, 710-719.
       https://doi.org/10.1109/TNSRE.2022.3230250
    """


class FastCTNet(_Fast, CTNet):
    """CTNet with a fused linear front: equal up to rounding, faster on a CPU.

    Its parameters are those of :class:`braindecode.models.CTNet`.

    See Also
    --------
    FastEEGNeX : What all fast models have in common.
    braindecode_sam.speed_up : Speed up any other model.
    braindecode.models.CTNet : The original model.

    References
    ----------
    .. [1] Zhao et al. (2024). CTNet: a convolutional transformer network for EEG-based
       motor imagery classification. Scientific Reports, 14, 20237.
       https://doi.org/10.1038/s41598-024-71118-7
    """


class FastATCNet(_Fast, ATCNet):
    """ATCNet with a fused linear front: equal up to rounding, faster on a CPU.

    Its parameters are those of :class:`braindecode.models.ATCNet`.

    See Also
    --------
    FastEEGNeX : What all fast models have in common.
    braindecode_sam.speed_up : Speed up any other model.
    braindecode.models.ATCNet : The original model.

    References
    ----------
    .. [1] Altaheri, Muhammad and Alsulaiman (2022). Physics-informed attention temporal
       convolutional network for EEG-based motor imagery classification. IEEE
       Transactions on Industrial Informatics.
       https://doi.org/10.1109/TII.2022.3197419
    """


class FastAttentionBaseNet(_Fast, AttentionBaseNet):
    """AttentionBaseNet with a fused linear front: equal up to rounding, faster on CPU.

    Its parameters are those of :class:`braindecode.models.AttentionBaseNet`.

    See Also
    --------
    FastEEGNeX : What all fast models have in common.
    braindecode_sam.speed_up : Speed up any other model.
    braindecode.models.AttentionBaseNet : The original model.

    References
    ----------
    .. [1] Wimpff, Gizzi, Zerfowski and Yang (2023). EEG motor imagery decoding: A
       framework for comparative analysis with channel attention mechanisms.
       https://arxiv.org/abs/2310.11198
    """


class FastMSVTNet(_Fast, MSVTNet):
    """MSVTNet with a fused linear front: equal up to rounding, faster on a CPU.

    Its parameters are those of :class:`braindecode.models.MSVTNet`.

    See Also
    --------
    FastEEGNeX : What all fast models have in common.
    braindecode_sam.speed_up : Speed up any other model.
    braindecode.models.MSVTNet : The original model.

    References
    ----------
    .. [1] Liu et al. (2024). MSVTNet: Multi-Scale Vision Transformer Neural Network for
       EEG-Based Motor Imagery Decoding. IEEE Journal of Biomedical and Health
       Informatics, 28(12), 7126-7137. https://doi.org/10.1109/JBHI.2024.3450753
    """


class FastEEGITNet(_Fast, EEGITNet):
    """EEGITNet with a fused linear front: equal up to rounding, faster on a CPU.

    Its parameters are those of :class:`braindecode.models.EEGITNet`.

    See Also
    --------
    FastEEGNeX : What all fast models have in common.
    braindecode_sam.speed_up : Speed up any other model.
    braindecode.models.EEGITNet : The original model.

    References
    ----------
    .. [1] Salami, Andreu-Perez and Gillmeister (2022). EEG-ITNet: An Explainable
       Inception Temporal Convolutional Network for motor imagery classification. IEEE
       Access. https://doi.org/10.1109/ACCESS.2022.3161489
    """


class FastTCFormer(_Fast, TCFormer):
    """TCFormer with a fused linear front: equal up to rounding, faster on a CPU.

    Its parameters are those of :class:`braindecode.models.TCFormer`.

    See Also
    --------
    FastEEGNeX : What all fast models have in common.
    braindecode_sam.speed_up : Speed up any other model.
    braindecode.models.TCFormer : The original model.

    References
    ----------
    .. [1] Altaheri, Karray and Karimi (2025). Temporal convolutional transformer for
       EEG based motor imagery decoding. Scientific Reports, 15, 32959.
       https://doi.org/10.1038/s41598-025-16219-7
    """


FAST: tuple[type[Any], ...] = tuple(_Fast.__subclasses__())
