"""Filtering by way of spectra, with other filters near the ends of the signals."""

from __future__ import annotations

from typing import Any

import torch
from scipy.fft import next_fast_len


class FFTFilter(torch.autograd.Function):
    """Filter signals by way of their spectra, with other filters near both ends.

    ``apply(signals, filters, constant, first, head, tail, head_columns, tail_columns)``

    - signals of shape (batch, n_groups, n_signals, n_times), zero outside;
    - filters of shape (n_groups, n_taps);
    - constant of shape (n_groups, n_signals, n_out), added to every output;
    - first, at most 0: the sample that tap 0 meets in output sample 0;
    - head and tail of shape (n_groups, n_rows, n_columns): what is added to the first
      and to the last n_rows output samples, as weights of the input samples in
      head_columns and tail_columns, each a range;

    gives ``y[..., t] = constant[..., t] + sum_j filters[:, j] signals[..., first+t+j]``
    and the additions. Written out because torch's own backward of a real FFT is a
    complex one of full length. It saves inputs only, so it can be differentiated twice.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        signals: torch.Tensor,
        filters: torch.Tensor,
        constant: torch.Tensor,
        first: int,
        head: torch.Tensor,
        tail: torch.Tensor,
        *columns: range,
    ) -> torch.Tensor:
        """Filter."""
        n_out = constant.shape[-1]
        length = _fft_length(signals.shape[-1], n_out, filters, first)
        spectrum = torch.fft.rfft(signals, length)
        spectrum *= _kernel_spectrum(filters, first, length)
        y = torch.fft.irfft(spectrum, length)[..., :n_out] + constant
        s_head, s_tail = (_cut(signals, met) for met in columns)
        y[..., : head.shape[1]] += _weigh(s_head, head.mT)
        y[..., n_out - tail.shape[1] :] += _weigh(s_tail, tail.mT)
        return y

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Keep the inputs."""
        signals, filters, constant, ctx.first, head, tail, *ctx.columns = inputs
        ctx.save_for_backward(signals, filters, head, tail)
        ctx.length = _fft_length(
            signals.shape[-1], constant.shape[-1], filters, ctx.first
        )

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Correlate."""
        signals, filters, head, tail = ctx.saved_tensors
        n_out, n_tail = grad.shape[-1], tail.shape[1]
        at_head, at_tail = grad[..., : head.shape[1]], grad[..., n_out - n_tail :]
        s_head, s_tail = (_cut(signals, met) for met in ctx.columns)
        spectrum = torch.fft.rfft(grad, ctx.length)
        conjugate = torch.fft.rfft(signals, ctx.length)
        conjugate.imag.neg_()  # in place: a lazy conjugate would be copied
        product = (conjugate * spectrum).sum(dim=0).sum(dim=1)
        lags = torch.fft.irfft(product, ctx.length)
        taps = _kernel_index(filters, ctx.first, ctx.length)
        kernel = _kernel_spectrum(filters, ctx.first, ctx.length)
        back = torch.fft.irfft(spectrum * kernel.conj(), ctx.length)
        back = back[..., : signals.shape[-1]]
        _cut(back, ctx.columns[0]).add_(_weigh(at_head, head))
        _cut(back, ctx.columns[1]).add_(_weigh(at_tail, tail))
        grad_head = torch.einsum("bgdt,bgdw->gtw", at_head, s_head)
        grad_tail = torch.einsum("bgdt,bgdw->gtw", at_tail, s_tail)
        edges = (grad_head, grad_tail, None, None)
        return back, lags[:, taps], grad.sum(0), None, *edges


def _cut(signals: torch.Tensor, columns: range) -> torch.Tensor:
    return signals[..., columns.start : columns.stop]


def _weigh(signals: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    return torch.einsum("bgdw,gwt->bgdt", signals, rows)


def _fft_length(n_times: int, n_out: int, filters: torch.Tensor, first: int) -> int:
    """Long enough that what wraps around meets zeros only."""
    overhang = max(-first, filters.shape[1] - 1 + first, 0)
    return next_fast_len(max(n_times, n_out) + overhang, real=True)


def _kernel_index(filters: torch.Tensor, first: int, length: int) -> torch.Tensor:
    return (-first - torch.arange(filters.shape[1], device=filters.device)) % length


def _kernel_spectrum(filters: torch.Tensor, first: int, length: int) -> torch.Tensor:
    kernel = filters.new_zeros(len(filters), length)
    index = _kernel_index(filters, first, length)
    return torch.fft.rfft(kernel.index_copy(1, index, filters))[:, None]
