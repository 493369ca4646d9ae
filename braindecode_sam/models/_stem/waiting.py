"""A convolution over time whose computation may wait for what follows."""

from __future__ import annotations

import logging
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.modules import module as torch_module

from braindecode_sam.models import _cost
from braindecode_sam.models._eager import reason_not_eager
from braindecode_sam.models._faster import Described
from braindecode_sam.models._fft_conv import FFTConv2d, geometry_of
from braindecode_sam.models._stem.filtered import defer_convolution
from braindecode_sam.models._stem.pending import saved_tensors_have_hooks

log = logging.getLogger(__name__)
DEVICES = ("cpu", "cuda")


class WaitingConv2d(FFTConv2d):
    """A convolution of windows over time whose computation is deferred.

    Where it is not, the layer is an :class:`FFTConv2d`. Its attribute `source` is a
    :class:`~braindecode_sam.models._stem.pending.Source`.
    """

    source = cast(Any, None)

    @classmethod
    def can_replace(cls, layer: Any) -> bool:
        """Return whether it applies the same filters to all channels."""
        geometry = geometry_of(layer)
        return (
            geometry is not None
            and layer.in_channels == geometry.convolution.dilation == 1
        )

    def describe(self, shape: Any) -> Described | None:
        """Describe the front of the model, or the convolution by FFT without one."""
        front, geometry = self.source.front, geometry_of(self)
        if type(front) is not _cost.Front or len(shape) != 4 or geometry is None:
            return FFTConv2d.describe(self, shape)
        n_out = shape[geometry.axis] - self.source.n_lost
        return front, (shape[0], shape[5 - geometry.axis], n_out)

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return self._conv_forward(x, weight, bias)
        reason = reason_not_eager(x) or self._reason_not_to_defer(x, weight)
        if reason is None:
            return defer_convolution(self.source, x, weight, bias, self.padding)
        if self.source and reason not in self.source.logged:
            self.source.logged.add(reason)
            log.debug("%s is not deferred: %s", self.settings.name, reason)
        return FFTConv2d._convolve(self, x, weight, bias)

    def _reason_not_to_defer(self, x: Tensor, weight: Tensor) -> str | None:
        geometry = geometry_of(self)
        if (
            geometry is None
            or not self.source
            or not self.in_channels == geometry.convolution.dilation == 1
            or weight.shape[1:] != (1, *self.kernel_size)
        ):
            return "it is not a temporal convolution with stride and dilation 1"
        if x.ndim != 4 or x.shape[1] != 1 or 0 in x.shape:
            return f"its input has the shape {tuple(x.shape)}"
        if x.requires_grad:
            return "its input requires gradients"
        if x.dtype != weight.dtype:
            return f"its input is {x.dtype}, its weight {weight.dtype}"
        if x.device.type not in DEVICES or x.device != weight.device:
            return f"its input is on {x.device}, its weight on {weight.device}"
        front = self.source.front
        if front is None and not self.settings.is_forced:
            return "its output was read by another layer or function"
        if type(front) is _cost.Front and not self.pays(x, self.describe(x.shape)):
            return "that is faster for small batches"
        if x.shape[5 - geometry.axis] == 1:
            return "it has a single channel"
        convolution = geometry.convolution
        if x.shape[geometry.axis] + convolution.n_padded <= convolution.span:
            return "its kernel is longer than its input"
        if saved_tensors_have_hooks():
            return "it runs in torch.utils.checkpoint or another hook of saved tensors"
        hooks_of_all = torch_module._global_forward_hooks.values()
        if not all(getattr(hook, "ignores_output", False) for hook in hooks_of_all) or (
            any(layer._forward_hooks for layer in (self, *self.source.behind))
        ):
            return "a forward hook may read its output"
        return None
