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

import functools
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, cast

import torch
from scipy.fft import next_fast_len
from torch import Tensor

from braindecode_sam.models._cost import Convolution
from braindecode_sam.models._eager import cached_by_size, reason_not_eager
from braindecode_sam.models._faster import Described, Faster

CACHE = 2**23  # bytes


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
        for (x_part,) in _in_parts(ctx, weight, x):
            spectrum = _spectrum(ctx, x_part, weight)
            if weight.shape[1] > 1:
                parts.append(_signals(ctx, response @ spectrum, n_out, x_part))
            else:
                parts.append(_signals(ctx, response * spectrum, n_out, None))
        if len(parts) > 1 or not ctx.needs_input_grad[1]:
            spectrum = None
        ctx.save_for_backward(x, weight, response, spectrum)
        # Layers copy what is not contiguous. What is would stay a view, which could not
        # be modified in place.
        is_copied_later = len(parts) == 1 and not parts[0].is_contiguous()
        return parts[0] if is_copied_later else torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Correlate."""
        x, weight, response, spectrum = ctx.saved_tensors
        if torch.is_grad_enabled():  # to differentiate again
            spectrum, response = None, _response(ctx, weight)
        n_times = x.shape[3]
        needs_x, needs_weight = ctx.needs_input_grad[:2]
        is_full = weight.shape[1] > 1
        parts: list[Tensor] = []
        product: Any = 0
        for x_part, part in _in_parts(ctx, weight, x, grad):
            of_output = _spectrum(ctx, part, weight)
            if needs_x and is_full:
                of_input = response.mH @ of_output
                parts.append(_signals(ctx, of_input, n_times, x_part))
            elif needs_x:
                of_input = response.conj() * of_output
                if x.shape[1] == 1:
                    of_input = of_input.sum(dim=1, keepdim=True)
                parts.append(_signals(ctx, of_input, n_times, None))
            if needs_weight:
                read = _spectrum(ctx, x_part, weight) if spectrum is None else spectrum
                if is_full:
                    product = product + of_output @ read.mH
                else:  # a joint sum is far slower
                    each = of_output * read.conj()
                    product = product + each.sum(dim=0).sum(dim=1, keepdim=True)
        grad_x = grad_weight = None
        if needs_x:
            grad_x = parts[0] if len(parts) == 1 else torch.cat(parts)
        if needs_weight:
            product = product.permute(1, 2, 0) if is_full else product
            n_taps, device = weight.shape[2], weight.device
            index = _index(n_taps, ctx.first, ctx.dilation, ctx.length, device)
            grad_weight = torch.fft.irfft(product, ctx.length)[..., index]
        return grad_x, grad_weight, None, None, None


def _in_parts(
    ctx: Any, weight: Tensor, x: Tensor, *others: Tensor
) -> Iterable[tuple[Tensor, ...]]:
    """Split tensors by windows, if many.

    Larger tensors leave the cache, and the C library returns them to the system.
    """
    n_signals = x.shape[2] * max(x.shape[1], weight.shape[0])
    n_bytes = n_signals * ctx.length * x.element_size()
    if len(x) * n_bytes <= 2 * CACHE:
        return [(x, *others)]
    n_at_once = max(CACHE // n_bytes, 1)
    return zip(*(t.split(n_at_once) for t in (x, *others)), strict=True)


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
    signals = torch.fft.irfft(spectrum, ctx.length)
    return signals if ctx.length == n_times else signals[..., :n_times]


class Geometry(NamedTuple):
    """What a layer does, and the axis that it filters."""

    convolution: Convolution
    axis: int

    def describe(self, shape: Sequence[int]) -> Described:
        """Describe the convolution and its signals, for the estimate of the cost."""
        n_times = shape[self.axis]
        n_rows = math.prod(shape[2:]) // max(n_times, 1)
        return self.convolution, (shape[0], n_rows, n_times)


def geometry_of(layer: Any) -> Geometry | None:
    """Read the attributes of a layer; None if it does anything else."""
    sizes = layer.kernel_size, layer.stride, layer.dilation, layer.padding
    # Other types were set by hand, which torch accepts.
    if not {*map(type, sizes)} <= {tuple, str}:
        return None
    if "forward" in vars(layer) or "_conv_forward" in vars(layer):  # replaced by hand
        return None
    channels = layer.in_channels, layer.out_channels
    return _geometry(*sizes, *channels, layer.groups, layer.padding_mode)


@functools.lru_cache(maxsize=4096)  # since each call of a layer asks
def _geometry(
    kernel_size: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
    padding: tuple[int, ...] | str,
    n_inputs: int,
    n_outputs: int,
    groups: int,
    padding_mode: str,
) -> Geometry | None:
    filtered = [i for i, n_taps in enumerate(kernel_size) if n_taps > 1]
    is_depthwise = groups == n_inputs == n_outputs != 1
    if (
        len(filtered) != 1
        or not (groups == 1 or is_depthwise)
        or set(stride) != {1}
        or padding_mode != "zeros"
    ):
        return None
    (i,) = filtered
    n_taps = kernel_size[i]
    if padding == "same":
        n_padded = dilation[i] * (n_taps - 1)
    else:
        pads = [0] * len(kernel_size) if padding == "valid" else list(padding)
        n_padded = 2 * cast(int, pads.pop(i))
        if any(pads):
            return None
    convolution = Convolution(
        n_inputs, n_outputs, n_taps, dilation[i], n_padded, is_depthwise
    )
    return Geometry(convolution, i + 2)


class _FFTConv(Faster):
    """Convolution over time by FFT, where that is faster on a CPU.

    It mixes all channels or filters each alone. CPUs have no FFT in half precision.
    """

    pattern = "FFT"

    @classmethod
    def can_replace(cls, layer: Any) -> bool:
        """Return whether the layer has a stride of 1 and zero padding."""
        return geometry_of(layer) is not None

    def forward(self: Any, input: Tensor) -> Tensor:
        """Convolve."""
        if not torch.jit.is_scripting():
            # Read once, since parametrizations may have state.
            return self._convolve(input, self.weight, self.bias)
        return self._conv_forward(input, self.weight, self.bias)

    def describe(self, shape: Sequence[int]) -> Described | None:
        """Describe the convolution and its signals, for the estimate of the cost."""
        geometry = geometry_of(self)
        if geometry is None or len(shape) != len(cast(Any, self).kernel_size) + 2:
            return None
        return geometry.describe(shape)

    def _convolve(self: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        geometry = None if reason_not_eager(x) else geometry_of(self)
        is_mixed = bias is not None and bias.dtype != weight.dtype  # torch raises
        if geometry is None or is_mixed or not self._applies(x, weight, geometry):
            y: Tensor = self._conv_forward(x, weight, bias)
            return y
        convolution, axis = geometry
        signals = x[:, :, None] if x.ndim == 3 else x.movedim(axis, 3)
        n_out = signals.shape[3] + convolution.n_padded - convolution.span
        filters = weight.reshape(*weight.shape[:2], -1)
        first, dilation = -(convolution.n_padded // 2), convolution.dilation
        y = FFTConvolution.apply(signals, filters, first, n_out, dilation)
        if bias is not None:
            y = y + bias[:, None, None]
        y = y.squeeze(2) if x.ndim == 3 else y.movedim(3, axis)
        return y.contiguous()

    def _applies(self: Any, x: Tensor, weight: Tensor, geometry: Geometry) -> bool:
        convolution = geometry.convolution
        return (
            x.ndim == len(self.kernel_size) + 2
            and self.pays(x, geometry.describe(x.shape))
            and weight.shape[0] == self.out_channels
            and weight.shape[1:] == (self.in_channels // self.groups, *self.kernel_size)
            and x.shape[1] == self.in_channels
            and x.numel() > 0
            and x.shape[geometry.axis] + convolution.n_padded > convolution.span
            and x.device.type == weight.device.type == "cpu"
            and x.dtype == weight.dtype
            and not torch.is_autocast_enabled("cpu")
        )


class FFTConv1d(_FFTConv, torch.nn.Conv1d):
    """A convolution of signals of shape (batch, channels, time)."""

    original = torch.nn.Conv1d


class FFTConv2d(_FFTConv, torch.nn.Conv2d):
    """A convolution of images of which one axis is time."""

    original = torch.nn.Conv2d
