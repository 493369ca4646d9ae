r"""Convolution over time by FFT.

A convolution with C input channels, O output channels and K taps costs C O K
multiplications for each sample. In the frequency domain it is one O x C matrix for each
frequency, and its cost does not depend on K. X and W are the spectra of the input and
of the filters, zero-padded so that circular convolution wraps around to zeros only:

.. math:: Y_f = W_f X_f, \qquad \bar X_f = W_f^H \bar Y_f,
          \qquad \bar W_f = \bar Y_f X_f^H

where the bar marks gradients. With one input channel for each output, the matrices are
numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from scipy.fft import next_fast_len
from torch import Tensor

from braindecode_sam.models._cost import Convolution
from braindecode_sam.models._eager import cached_by_size, reason_not_eager
from braindecode_sam.models._faster import Described, Faster

LARGE = 2**23  # bytes


class FFTConvolution(torch.autograd.Function):
    """Filter signals that are zero outside of their samples.

    ``apply(x, weight, first, n_out, dilation)`` takes x of shape
    (batch, n_inputs, n_rows, n_times). The weight has the shape
    (n_outputs, n_inputs, n_taps), or (n_outputs, 1, n_taps) for one filter for each
    channel or several for one channel. The result is
    ``y[..., t] = sum_k weight[..., k] x[..., first + t + k * dilation]`` for ``n_out``
    samples.

    The backward pass is explicit because torch's backward of a real FFT is a complex
    one of full length. It can be differentiated twice.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, first: int, n_out: int, dilation: int
    ) -> Tensor:
        """Filter."""
        n_times, last = x.shape[3], first + dilation * (weight.shape[2] - 1)
        needed = max(n_times - min(first, 0), n_out + max(last, 0))
        ctx.length = next_fast_len(max(needed, n_out), real=True)
        ctx.first, ctx.dilation = first, dilation
        response = _response(ctx, weight)
        parts, spectrum = [], None
        for x_part in x.split(_n_at_once(ctx, x)):
            spectrum = _spectrum(ctx, x_part, weight)
            if weight.shape[1] > 1:
                parts.append(_signals(ctx, response @ spectrum, n_out, x_part))
            else:
                parts.append(_signals(ctx, response * spectrum, n_out, None))
        if len(parts) > 1:
            spectrum = None
        ctx.save_for_backward(x, weight, response, spectrum)
        return _joined(parts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Correlate."""
        x, weight, response, spectrum = ctx.saved_tensors
        if torch.is_grad_enabled():  # to differentiate again
            spectrum, response = None, _response(ctx, weight)
        n_times, n_at_once = x.shape[3], _n_at_once(ctx, x)
        parts: list[Tensor] = []
        product: Any = 0
        for x_part, part in zip(x.split(n_at_once), grad.split(n_at_once), strict=True):
            read = _spectrum(ctx, x_part, weight) if spectrum is None else spectrum
            of_output = _spectrum(ctx, part, weight)
            if weight.shape[1] > 1:
                product = product + of_output @ read.mH
                if ctx.needs_input_grad[0]:
                    of_input = response.mH @ of_output
                    parts.append(_signals(ctx, of_input, n_times, x_part))
            else:
                # A joint sum is far slower.
                summed = (of_output * read.conj()).sum(dim=0).sum(dim=1, keepdim=True)
                product = product + summed
                if ctx.needs_input_grad[0]:
                    of_input = (response.conj() * of_output).sum_to_size(read.shape)
                    parts.append(_signals(ctx, of_input, n_times, None))
        if weight.shape[1] > 1:
            product = product.permute(1, 2, 0)
        index = _index(
            weight.shape[2], ctx.first, ctx.dilation, ctx.length, weight.device
        )
        grad_weight = torch.fft.irfft(product, ctx.length)[..., index]
        return _joined(parts) if parts else None, grad_weight, None, None, None


def _n_at_once(ctx: Any, x: Tensor) -> int:
    """Return how many windows to transform at once.

    Larger tensors leave the cache, and the C library returns them to the system.
    """
    n_bytes = x.shape[1] * x.shape[2] * ctx.length * x.element_size()
    return len(x) if len(x) * n_bytes <= 2 * LARGE else max(LARGE // n_bytes, 1)


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


@cached_by_size
def _index(
    n_taps: int, first: int, dilation: int, length: int, device: torch.device
) -> Tensor:
    return (-first - dilation * torch.arange(n_taps, device=device)) % length


def _response(ctx: Any, weight: Tensor) -> Tensor:
    """Return the spectra of the filters, as (n_frequencies, n_outputs, n_inputs)."""
    n_outputs, n_inputs, n_taps = weight.shape
    index = _index(n_taps, ctx.first, ctx.dilation, ctx.length, weight.device)
    filters = weight.new_zeros(n_outputs, n_inputs, ctx.length)
    response = torch.fft.rfft(filters.index_copy(2, index, weight))
    return response.permute(2, 0, 1).contiguous() if n_inputs > 1 else response


def _spectrum(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
    """Return the spectra of signals, as (n_frequencies, channels, batch * rows)."""
    spectrum = torch.fft.rfft(x, ctx.length)
    if weight.shape[1] > 1:
        n_channels, n_frequencies = spectrum.shape[1], spectrum.shape[3]
        spectrum = spectrum.permute(3, 1, 0, 2)
        spectrum = spectrum.reshape(n_frequencies, n_channels, -1)
    return spectrum


def _signals(ctx: Any, spectrum: Tensor, n_times: int, x: Tensor | None) -> Tensor:
    """Return the signals of spectra, with the batch and rows of x if those are one."""
    if x is not None:
        spectrum = spectrum.reshape(*spectrum.shape[:2], x.shape[0], x.shape[2])
        spectrum = spectrum.permute(2, 1, 3, 0)
    return torch.fft.irfft(spectrum, ctx.length)[..., :n_times]


class _Geometry(NamedTuple):
    """What a layer does, the axis that it filters, and the samples padded before."""

    convolution: Convolution
    axis: int
    left: int


def _geometry(layer: Any) -> _Geometry | None:
    """Read the attributes of a layer; None if it does anything else."""
    filtered = [i for i, n_taps in enumerate(layer.kernel_size) if n_taps > 1]
    is_depthwise = layer.groups == layer.in_channels == layer.out_channels != 1
    if (
        len(filtered) != 1
        or not (layer.groups == 1 or is_depthwise)
        or set(layer.stride) != {1}
        or layer.padding_mode != "zeros"
        or {"forward", "_conv_forward"} & vars(layer).keys()
    ):
        return None
    (i,) = filtered
    n_taps, dilation = layer.kernel_size[i], layer.dilation[i]
    if layer.padding == "same":
        n_padded = dilation * (n_taps - 1)
    else:
        pads = [0, 0] if layer.padding == "valid" else list(layer.padding)
        n_padded = 2 * pads.pop(i)
        if any(pads[: len(layer.kernel_size) - 1]):
            return None
    channels = layer.in_channels, layer.out_channels
    convolution = Convolution(*channels, n_taps, dilation, n_padded, is_depthwise)
    return _Geometry(convolution, i + 2, n_padded // 2)


class _FFTConv(Faster):
    """Convolution over time, of all channels or of each, by FFT where that is faster.

    This is on a CPU, and not in half precision, for which CPUs have no FFT.
    """

    @classmethod
    def can_replace(cls, layer: Any) -> bool:
        """Return whether the layer has a stride of 1 and zero padding."""
        return _geometry(layer) is not None

    def describe(self, shape: Sequence[int]) -> Described | None:
        """Describe the convolution and its signals, for the estimate of the cost."""
        geometry = _geometry(self)
        if geometry is None or len(shape) != len(cast(Any, self).kernel_size) + 2:
            return None
        n_times = shape[geometry.axis]
        n_rows = math.prod(shape[2:]) // max(n_times, 1)
        return geometry.convolution, (shape[0], n_rows, n_times)

    def _convolve(self: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        geometry = None if reason_not_eager(x) else _geometry(self)
        if geometry is None or not self._applies(x, weight):
            y: Tensor = self._conv_forward(x, weight, bias)
            return y
        convolution, axis, left = geometry
        signals = x[:, :, None] if x.ndim == 3 else x.movedim(axis, 3)
        n_out = signals.shape[3] + convolution.n_padded - convolution.span
        filters = weight.reshape(*weight.shape[:2], -1)
        y = FFTConvolution.apply(signals, filters, -left, n_out, convolution.dilation)
        if bias is not None:
            y = y + bias[:, None, None]
        y = y.squeeze(2) if x.ndim == 3 else y.movedim(3, axis)
        return y.contiguous()

    def _applies(self: Any, x: Tensor, weight: Tensor) -> bool:
        described: Any = _FFTConv.describe(self, x.shape)
        if described is None or not self.pays(x, *described):
            return False
        convolution, (_, _, n_times) = described
        n_inputs = self.in_channels // self.groups
        return (
            weight.shape == (self.out_channels, n_inputs, *self.kernel_size)
            and x.shape[1] == self.in_channels
            and x.numel() > 0
            and n_times + convolution.n_padded > convolution.span
            and x.device.type == weight.device.type == "cpu"
            and x.dtype == weight.dtype
            and not torch.is_autocast_enabled("cpu")
        )


class FFTConv1d(_FFTConv, torch.nn.Conv1d):
    """A convolution of signals of shape (batch, channels, time)."""

    original = torch.nn.Conv1d

    def forward(self, x: Tensor) -> Tensor:
        """Convolve."""
        if torch.jit.is_scripting():
            return self._conv_forward(x, self.weight, self.bias)
        else:  # not scripted
            # Read once, since parametrizations may have state.
            return self._convolve(x, self.weight, self.bias)


class FFTConv2d(_FFTConv, torch.nn.Conv2d):
    """A convolution of images of which one axis is time."""

    original = torch.nn.Conv2d

    def forward(self, x: Tensor) -> Tensor:
        """Convolve."""
        if torch.jit.is_scripting():
            return self._conv_forward(x, self.weight, self.bias)
        else:  # not scripted
            # Read once, since parametrizations may have state.
            return self._convolve(x, self.weight, self.bias)
