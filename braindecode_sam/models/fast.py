"""EEGNeX and EEGNet, exactly, with the linear stem in place of their first layers."""

from __future__ import annotations

import functools
import itertools
import weakref
from collections.abc import Callable
from typing import Any

import torch
from braindecode.models import EEGNet, EEGNeX
from braindecode.modules import Conv2dWithConstraint
from torch.nn.utils import parametrize

from braindecode_sam.models._compile import not_compiled
from braindecode_sam.models._dropout import ReplayedDropout
from braindecode_sam.models._fft_conv import FFTConv2d
from braindecode_sam.models._memory import keep_freed_memory
from braindecode_sam.models._pickling import allow_pickling
from braindecode_sam.models._stem.batch_norm import normalizer
from braindecode_sam.models._stem.linear import eegnet_stem, eegnex_stem
from braindecode_sam.models._stem.moments import Moments, window_moments

_Module: Any = object  # any module; what the mixin calls is its model's


class _FastMixin(_Module):
    """What both models share: the rule, the moments' memory, and pickling."""

    def upgrade_layers(self) -> None:
        """Let the layers behind the stem go faster too, each exactly what it was."""
        keep_freed_memory()
        for layer in torch.nn.ModuleList(self._rest()).modules():
            if FFTConv2d.can_replace(layer):
                layer.__class__ = FFTConv2d
            elif type(layer) is torch.nn.Dropout:
                layer.__class__ = ReplayedDropout

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the outputs.

        Parameters
        ----------
        x : torch.Tensor of shape (batch, n_chans, n_times)
            EEG windows.

        Returns
        -------
        y : torch.Tensor of shape (batch, n_outputs)
            Outputs.
        """
        if not self._stem_applies(x):
            return super().forward(x)
        y = self._run_stem(x)
        for layer in self._rest():
            y = layer(y)
        return y

    @not_compiled  # its FFTs and statistics are no faster compiled
    def _run_stem(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return self._stem(x.to(self._stem_dtype())).unsqueeze(2)

    def _stem_applies(self, x: torch.Tensor) -> bool:
        """Tell whether the stem can be used; if not, the stock forward runs.

        Gradients with respect to the windows would have to go through their second
        moments, half precision has no FFT on a CPU, float64 none on MPS; and layers
        that somebody replaced or hooked into must run themselves.
        """
        return (
            x.ndim == 3
            and not x.requires_grad
            and x.is_floating_point()
            and x.device.type in ("cpu", "cuda")
            and self._stem_dtype() in (torch.float32, torch.float64)
            and (
                x.dtype == self._stem_dtype()
                or torch.is_autocast_enabled(x.device.type)
            )
            and x.shape[0] > 0
            and x.shape[1] == self._stem_layers()[-1].kernel_size[0]
            and all(map(_is_stock, self._stem_layers()))
        )

    def _stem_dtype(self) -> torch.dtype:
        return self._stem_layers()[0].weight.dtype

    def _moments_of(self, x: torch.Tensor) -> Callable[[int], Moments]:
        """Moments of x; SAM's second pass sees the same windows and need not count.

        Tensors of inference mode have no version that tells whether they changed, nor
        may they meet autograd later.
        """

        def moments(n_lags: int) -> Moments:
            if x.is_inference() or torch.is_inference_mode_enabled():
                return window_moments(x, n_lags)
            known, version, found = self.__dict__.get("_moments", (None, None, None))
            if known is None or known() is not x or version != x._version:
                found = window_moments(x, n_lags)
                self.__dict__["_moments"] = (weakref.ref(x), x._version, found)
            return found

        return moments

    def __setstate__(self, state: Any) -> None:
        super().__setstate__(state)
        keep_freed_memory()

    def __getstate__(self) -> dict[str, Any]:
        allow_pickling(self)
        return {k: v for k, v in self.__dict__.items() if k != "_moments"}


class FastEEGNeX(_FastMixin, EEGNeX):
    """EEGNeX by way of the linear stem: the same numbers, a fraction of the work.

    Constructor, parameters, buffers, ``state_dict`` and initialization are those of
    :class:`braindecode.models.EEGNeX`, so weights move freely between the two. Only
    the forward pass differs, and only up to rounding. The first three blocks' stock
    forward runs where the inputs require gradients, in half precision, and where one of
    their layers was replaced or has hooks. Behind them, long convolutions go by way of
    spectra on a CPU, and dropout takes the mask it has drawn from the same state of the
    random numbers before, as it does in the second pass of a SAM step.

    Notes
    -----
    Building a fast model has an effect on the whole process: the C library keeps freed
    blocks of up to 32 MiB for the next pass, instead of returning them to the system.
    ``BRAINDECODE_SAM_KEEP_MEMORY=0`` in the environment prevents it.

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

    block_1: Any
    block_2: Any
    block_3: Any

    @functools.wraps(EEGNeX.__init__)  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.upgrade_layers()

    def _stem_layers(self) -> tuple[Any, ...]:
        return (*self.block_1[1:], *self.block_2, self.block_3[0])

    def _rest(self) -> tuple[torch.nn.Module, ...]:
        later = itertools.islice(self.block_3, 1, None)
        return (*later, self.block_4, self.block_5, self.final_layer)

    def _stem(self, x: torch.Tensor) -> torch.Tensor:
        conv_1, norm_1, conv_2, norm_2, spatial = self._stem_layers()
        return eegnex_stem(
            x,
            (conv_1.weight[:, 0, 0], normalizer(norm_1), _same(conv_1)),
            (conv_2.weight[:, :, 0], normalizer(norm_2), _same(conv_2)),
            spatial.weight[:, 0, :, 0],
            self._moments_of(x),
        )


class FastEEGNet(_FastMixin, EEGNet):
    """EEGNet by way of the linear stem: the same numbers, less work.

    To :class:`braindecode.models.EEGNet` what :class:`FastEEGNeX` is to EEGNeX.

    Examples
    --------
    >>> from braindecode_sam import FastEEGNet
    >>> model = FastEEGNet(
    ...     n_chans=4, n_times=200, n_outputs=1, final_layer_with_constraint=True)
    >>> model.get_output_shape()
    (1, 1)
    """

    @functools.wraps(EEGNet.__init__)  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.upgrade_layers()

    def _stem_layers(self) -> tuple[Any, ...]:
        return (self.conv_temporal, self.bnorm_temporal, self.conv_spatial)

    def _rest(self) -> tuple[torch.nn.Module, ...]:
        layers = iter(self.children())
        for layer in layers:
            if layer is self.conv_spatial:
                return tuple(layers)
        raise RuntimeError("conv_spatial is not among this model's layers")

    def _stem(self, x: torch.Tensor) -> torch.Tensor:
        conv, norm, spatial = self._stem_layers()
        return eegnet_stem(
            x,
            (conv.weight[:, 0, 0], normalizer(norm), (conv.padding[1],) * 2),
            spatial.weight[:, 0, :, 0],
            self._moments_of(x),
        )


def _same(conv: torch.nn.Conv2d) -> tuple[int, int]:
    """Split the padding of a convolution with padding="same" into left and right."""
    total = conv.kernel_size[1] - 1
    return total // 2, total - total // 2


HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
)


def _is_stock(layer: torch.nn.Module) -> bool:
    cls: Any = type(layer)
    if parametrize.is_parametrized(layer):
        cls = cls.__base__  # torch made a class for this layer alone
    known = (torch.nn.Conv2d, torch.nn.BatchNorm2d, Conv2dWithConstraint)
    return cls in known and not any(getattr(layer, hooks) for hooks in HOOKS)
