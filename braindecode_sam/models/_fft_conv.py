r"""FFT convolution over channels and time.

A convolution with C input channels, O output channels and K taps costs C O K
multiplications per sample. In the frequency domain it is one C x O matrix for each
frequency, and its cost does not depend on K. X and W are the spectra of the input and
of the filters, zero-padded so that circular convolution wraps around to zeros only:

.. math:: Y_f = W_f X_f, \qquad
          W_f = \sum_k w_k \exp(2 \pi i f (k d - p) / L)

for a dilation d, p samples of padding at the left and transforms of length L. The
gradients are W_f^H G_f and, by Parseval's theorem, the projection of G_f X_f^H on the K
waves above.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from scipy.fft import next_fast_len
from torch.autograd import forward_ad

from braindecode_sam.models import _cost
from braindecode_sam.models._cache import cached_by_size


class FFTConvolution(torch.autograd.Function):
    """FFT convolution.

    ``apply(x, weight, dilation, left, n_samples)`` takes x of shape
    (batch, n_in, n_times), weight of shape (n_out, n_in, n_taps), the number of samples
    padded at the left, and the number of output samples, at most n_times. Like
    ``torch.nn.functional.conv1d``, it returns a tensor of shape
    (batch, n_out, n_samples). It saves inputs only and can be differentiated twice.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        dilation: int,
        left: int,
        n_samples: int,
    ) -> torch.Tensor:
        """Convolve."""
        ctx.save_for_backward(x, weight)
        ctx.dilation, ctx.left = dilation, left
        length = _fft_length(x, weight, dilation)
        waves, _ = _waves_of(weight, dilation, left, length)
        matrices = _matrices(weight, waves)
        return _signals(matrices @ _spectra(x, length), length, n_samples)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Compute the gradients by correlation."""
        x, weight = ctx.saved_tensors
        length = _fft_length(x, weight, ctx.dilation)
        waves, counted = _waves_of(weight, ctx.dilation, ctx.left, length)
        spectra = _spectra(grad, length)
        grad_x = None
        if ctx.needs_input_grad[0]:
            back = _matrices(weight, waves).mH @ spectra
            grad_x = _signals(back, length, x.shape[-1])
        products = spectra @ _spectra(x, length).mH
        # flatten does not support is_grads_batched of autograd.grad.
        n_pairs = weight.shape[0] * weight.shape[1]
        parts = torch.view_as_real(products.reshape(-1, n_pairs)).mT
        grad_weight = parts.reshape(-1, n_pairs).mT @ counted
        return grad_x, grad_weight.reshape(weight.shape), None, None, None


def _fft_length(x: torch.Tensor, weight: torch.Tensor, dilation: int) -> int:
    return next_fast_len(x.shape[-1] + dilation * (weight.shape[-1] - 1), real=True)


@cached_by_size
def _waves(
    n_taps: int, dilation: int, left: int, length: int,
    dtype: torch.dtype, device: torch.device,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Return real and imaginary parts of the K waves, interleaved by frequency.

    The second tensor, of shape (2 * n_frequencies, n_taps), counts each frequency
    twice, for its negative too, except 0 and length / 2.
    """
    options: dict[str, Any] = {"dtype": torch.float64, "device": device}
    frequencies = torch.arange(length // 2 + 1, **options)
    times = dilation * torch.arange(n_taps, **options) - left
    angles = 2 * math.pi / length * torch.outer(frequencies, times)
    waves = torch.stack([angles.cos(), angles.sin()], dim=1)
    is_alone = (2 * frequencies) % length == 0
    counted = (2 - is_alone.double())[:, None, None] / length * waves
    return waves.flatten(0, 1).to(dtype), counted.flatten(0, 1).to(dtype)


def _waves_of(
    weight: torch.Tensor, dilation: int, left: int, length: int
) -> tuple[torch.Tensor, torch.Tensor]:
    return _waves(weight.shape[-1], dilation, left, length, weight.dtype, weight.device)


def _matrices(weight: torch.Tensor, waves: torch.Tensor) -> torch.Tensor:
    """Return the weights in the frequency domain: (n_frequencies, n_out, n_in)."""
    parts = (weight.flatten(0, 1) @ waves.mT).unflatten(1, (-1, 2))
    matrices = torch.view_as_complex(parts).unflatten(0, weight.shape[:2])
    return matrices.permute(2, 0, 1).contiguous()


def _spectra(x: torch.Tensor, length: int) -> torch.Tensor:
    return torch.fft.rfft(x, length).permute(2, 1, 0).contiguous()


def _signals(spectra: torch.Tensor, length: int, n_times: int) -> torch.Tensor:
    return torch.fft.irfft(spectra.permute(2, 1, 0), length)[..., :n_times]


class FFTConv2d(torch.nn.Conv2d):
    """A convolution over time that uses the FFT on a CPU.

    :func:`~braindecode_sam.speed_up` assigns this class to layers of class
    :class:`torch.nn.Conv2d`; see :meth:`can_replace`. It runs torch's convolution on
    accelerators, where that is fast, in half precision, for which CPUs have no FFT, for
    inputs that are not of shape (batch, channels, 1, time), and where an FFT does not
    pay.
    """

    is_forced = False

    @staticmethod
    def can_replace(layer: torch.nn.Module) -> bool:
        """Return whether this class can replace a layer."""
        return type(layer) is torch.nn.Conv2d and _is_replaceable(layer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve.

        Parameters
        ----------
        x : torch.Tensor of shape (batch, n_in, 1, n_times)
            Signals.

        Returns
        -------
        y : torch.Tensor of shape (batch, n_out, 1, n_times)
            Convolved signals.
        """
        if torch.jit.is_scripting():
            return self._conv_forward(x, self.weight, self.bias)
        else:  # not scripted
            return self._convolve(x)

    def _applies(self, x: torch.Tensor, weight: torch.Tensor) -> bool:
        return (
            not torch.compiler.is_compiling()  # which does not support complex numbers
            and not torch.jit.is_tracing()
            and type(x) in (torch.Tensor, torch.nn.Parameter)
            and x.ndim == 4
            and self._pays(x)  # early, since small batches take little time
            and _is_replaceable(self)  # since users may change layers and weights
            and weight.shape == (self.out_channels, self.in_channels, *self.kernel_size)
            and x.shape[1:3] == (self.in_channels, 1)
            and x.numel() > 0
            and x.device.type == weight.device.type == "cpu"
            and x.dtype == weight.dtype
            and x.dtype in (torch.float32, torch.float64)
            and not torch.is_autocast_enabled("cpu")
            and torch._C._functorch.peek_interpreter_stack() is None
            and forward_ad._current_level < 0
        )

    def _pays(self, x: torch.Tensor) -> bool:
        if self.is_forced:
            return True
        batch = _cost.Batch(x.shape[0], 1, x.shape[3], _cost.trains(self))
        n_taps, dilation = self.kernel_size[1], self.dilation[1]
        n_inputs, n_outputs = self.in_channels, self.out_channels
        return _cost.fft_pays(n_inputs, n_outputs, n_taps, dilation, batch, x.dtype)

    def _convolve(self, x: torch.Tensor) -> torch.Tensor:
        weight, bias = self.weight, self.bias  # once: parametrizations may have state
        if not self._applies(x, weight):
            return self._conv_forward(x, weight, bias)
        dilation = self.dilation[1]
        left = dilation * (self.kernel_size[1] - 1) // 2
        y = FFTConvolution.apply(
            x.squeeze(2), weight.squeeze(2), dilation, left, x.shape[-1]
        )
        if bias is not None:
            y = y + bias[:, None]
        return y.unsqueeze(2).contiguous()


def _is_replaceable(layer: torch.nn.Conv2d) -> bool:
    return (
        layer.kernel_size[0] == layer.groups == 1
        and layer.stride == (1, 1)
        and layer.padding == "same"
        and layer.padding_mode == "zeros"
        and not {"forward", "_conv_forward"} & vars(layer).keys()
    )
