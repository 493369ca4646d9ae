"""FFT filtering with other filters near the ends of the signals."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from scipy.fft import next_fast_len

from braindecode_sam.models._cache import cached_by_size


class Place(NamedTuple):
    """Samples whose filters differ from those of the interior.

    Attributes
    ----------
    samples : range
        Output samples.
    columns : range
        Input samples whose weights differ.
    """

    samples: range
    columns: range


class FFTFilter(torch.autograd.Function):
    """Filter signals by FFT, with other filters near both ends.

    ``apply(signals, filters, response, constant, first, places, *rows)``

    - signals of shape (batch, n_groups, n_signals, n_times), zero outside;
    - filters of shape (n_groups, n_taps);
    - response of shape (n_groups, n_out), the response to a window of ones;
    - constant of shape (n_groups, n_signals, 1) or (n_groups, n_signals, n_out),
      added to the outputs;
    - first, the sample that tap 0 reads in output sample 0;
    - places, a tuple of :class:`Place`, and for each of them rows of shape
      (n_groups, n_samples, n_columns), added to the weights of the input samples.

    The output is ``constant[..., t] + sum_j filters[:, j] signals[..., first+t+j]``,
    plus the rows at their places. The mean of each signal over time is filtered
    separately, since the rounding error of an FFT scales with its largest frequency.

    The backward pass is explicit because torch's backward of a real FFT is a complex
    one of full length. It can be differentiated twice.
    """

    @staticmethod
    def forward(
        ctx: Any,
        signals: torch.Tensor,
        filters: torch.Tensor,
        response: torch.Tensor,
        constant: torch.Tensor,
        first: int,
        places: tuple[Place, ...],
        *rows: torch.Tensor,
    ) -> torch.Tensor:
        """Filter."""
        n_out = response.shape[-1]
        length = ctx.length = _fft_length(signals.shape[-1], n_out, filters, first)
        means, spectrum = _means_and_spectrum(signals, length)
        kernel = _kernel_spectrum(filters, first, length)
        y = torch.fft.irfft(spectrum * kernel, length)[..., :n_out] + constant
        y.addcmul_(means, response[:, None])
        for place, row in zip(places, rows, strict=True):
            _cut(y, place.samples).add_(_weigh(_cut(signals, place.columns), row.mT))
        ctx.save_for_backward(signals, filters, response, constant, *rows)
        ctx.first, ctx.places = first, places
        ctx.known = None
        if ctx.needs_input_grad[1]:
            conjugate = torch.conj_physical(kernel)
            ctx.known = means, spectrum.conj_physical_(), conjugate
        return y

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Correlate."""
        signals, filters, response, constant, *rows = ctx.saved_tensors
        n_times, length = signals.shape[-1], ctx.length
        if ctx.known is None or torch.is_grad_enabled():  # differentiated again
            means, other = _means_and_spectrum(signals, length)
            other = other.conj()
            kernel = _kernel_spectrum(filters, ctx.first, length).conj()
        else:
            means, other, kernel = ctx.known
        spectrum = torch.fft.rfft(grad, length)
        product = (other * spectrum).sum(dim=0).sum(dim=1)  # a joint sum is far slower
        taps = _kernel_index(filters.shape[1], ctx.first, length, filters.device)
        grad_filters = torch.fft.irfft(product, length)[:, taps]
        grad_response = (grad * means).sum(dim=0).sum(dim=1)
        grad_constant = grad.sum(dim=0)
        if constant.shape[-1] == 1:
            grad_constant = grad_constant.sum(dim=-1, keepdim=True)
        grad_signals = None
        if ctx.needs_input_grad[0]:
            back = torch.fft.irfft(spectrum * kernel, length)[..., :n_times]
            of_means = (grad * response[:, None]).sum(dim=-1, keepdim=True)
            of_means = of_means - back.sum(dim=-1, keepdim=True)
            grad_signals = torch.add(back, of_means, alpha=1 / n_times)
            for place, row in zip(ctx.places, rows, strict=True):
                weighed = _weigh(_cut(grad, place.samples), row)
                _cut(grad_signals, place.columns).add_(weighed)
        grad_rows = [
            _by_group(_cut(grad, place.samples)).mT
            @ _by_group(_cut(signals, place.columns))
            for place in ctx.places
        ]
        grads = grad_signals, grad_filters, grad_response, grad_constant
        return *grads, None, None, *grad_rows


def _means_and_spectrum(
    signals: torch.Tensor, length: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the means of the signals, and the spectrum of the centered signals."""
    means = signals.mean(dim=-1, keepdim=True)
    return means, torch.fft.rfft(signals - means, length)


def _cut(signals: torch.Tensor, samples: range) -> torch.Tensor:
    return signals[..., samples.start : samples.stop]


def _weigh(signals: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    # One product for each group; broadcasting would make one for each window too.
    weighed = _by_group(signals) @ rows
    n_groups, n_signals = signals.shape[1:3]
    return weighed.reshape(n_groups, -1, n_signals, rows.shape[2]).transpose(0, 1)


def _by_group(signals: torch.Tensor) -> torch.Tensor:
    """Reshape (batch, n_groups, n_signals, n) to (n_groups, batch * n_signals, n)."""
    n_groups, _, n = signals.shape[1:]
    return signals.transpose(0, 1).reshape(n_groups, -1, n)


def _fft_length(n_times: int, n_out: int, filters: torch.Tensor, first: int) -> int:
    """Return a length at which circular convolution wraps around to zeros only."""
    overhang = max(-first, filters.shape[1] - 1 + first, 0)
    return next_fast_len(max(n_times, n_out) + overhang, real=True)


@cached_by_size
def _kernel_index(
    n_taps: int, first: int, length: int, device: torch.device
) -> torch.Tensor:
    return (-first - torch.arange(n_taps, device=device)) % length


def _kernel_spectrum(filters: torch.Tensor, first: int, length: int) -> torch.Tensor:
    kernel = filters.new_zeros(len(filters), length)
    index = _kernel_index(filters.shape[1], first, length, filters.device)
    return torch.fft.rfft(kernel.index_copy(1, index, filters))[:, None]
