r"""Mean and variance of filtered windows, from the moments of the windows alone.

With the windows' mean over batch and channels m[t], and their covariance R[s, t] about
it, an output :math:`z[t] = e_t \cdot x` of filter e_t has the variance over batch,
channels and time

.. math:: \frac{1}{T} \sum_t e_t^T R e_t + \mathrm{var}_t(e_t \cdot m) .

Where all e_t are one filter h, the sum is h^T M h with M[j, k] a sum along a diagonal
of R. R depends on the data alone: it needs no gradient, and both passes of a SAM step
can share it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention


class Moments:
    """First and second moments of windows over batch and channels, in float64.

    What the statistics of filtered windows need of them is kept too: filters change
    from pass to pass, but not where they meet the windows.

    Parameters
    ----------
    mean : torch.Tensor of shape (n_times,)
        Mean window m.
    band : torch.Tensor of shape (n_times, n_lags)
        Covariance R[t, t + lag]; 0 where t + lag is past the end.
    """

    def __init__(self, mean: torch.Tensor, band: torch.Tensor) -> None:
        self.mean, self.band = mean, band
        self._kept: dict[tuple[Any, ...], torch.Tensor] = {}

    def kept(self, function: Callable[..., torch.Tensor], *args: Any) -> torch.Tensor:
        """Give ``function(self, *args)``, calling it the first time only."""
        key = (function, *args)
        if key not in self._kept:
            self._kept[key] = function(self, *args)
        return self._kept[key]


def window_moments(x: torch.Tensor, n_lags: int) -> Moments:
    """Moments of windows, about their mean, for all lags below `n_lags`.

    Parameters
    ----------
    x : torch.Tensor of shape (batch, n_chans, n_times)
        Windows. No gradient flows to them from here.
    n_lags : int
        Number of lags, at most `n_times`.

    Returns
    -------
    moments : Moments
        Of all batch * n_chans signals.

    Notes
    -----
    Each signal's own mean over time is taken out before the large product and put
    back in float64, or an offset of 10,000 standard deviations would leave no digit.
    """
    signals = x.detach().reshape(-1, x.shape[-1])
    offset = signals.mean(dim=1)
    signals = signals - offset[:, None]
    mean = signals.mean(dim=0)
    signals -= mean
    offset = offset.double()
    centred = offset - offset.mean()
    cross = (centred.to(signals.dtype) @ signals).double()
    cross += centred.square().sum() / 2
    band = _banded_products(signals, n_lags).double()
    band += cross[:, None] + _shifted(cross, n_lags)
    band *= _shifted(torch.ones_like(cross), n_lags) / len(signals)
    return Moments(mean.double() + offset.mean(), band)


BLOCK = 32  # samples; the product is made for bands of this height


def _banded_products(signals: torch.Tensor, n_lags: int) -> torch.Tensor:
    """Sum over the signals of x[t] x[t + lag]: (n_times, n_lags)."""
    n_times = signals.shape[1]
    n_blocks, width = -(-n_times // BLOCK), BLOCK + n_lags
    padded = F.pad(signals, (0, n_blocks * BLOCK + n_lags - n_times))
    rows = padded[:, : n_blocks * BLOCK].unflatten(1, (n_blocks, BLOCK))
    reach = padded.unfold(1, width, BLOCK)[:, :n_blocks]
    products = rows.permute(1, 2, 0) @ reach.transpose(0, 1)
    # Row r of a block holds the lags -r and onwards.
    strides = (BLOCK * width, width + 1, 1)
    bands = products.as_strided((n_blocks, BLOCK, n_lags), strides)
    return bands.flatten(0, 1)[:n_times]


def _shifted(values: torch.Tensor, n_lags: int) -> torch.Tensor:
    """values[t + lag], and 0 past the end: (n_times, n_lags)."""
    return F.pad(values, (0, n_lags)).unfold(0, n_lags, 1)[: len(values)]


def diagonal_sums(
    moments: Moments, n_taps: int, first: int, n_rows: int
) -> torch.Tensor:
    """Sum of the covariances that a filter meets on its way over the samples.

    Parameters
    ----------
    moments : Moments
        With at least `n_taps` lags, or `n_times`.
    n_taps : int
        Taps of the filter.
    first : int
        Input sample that tap 0 meets in the first row; may be negative.
    n_rows : int
        Number of output samples.

    Returns
    -------
    M : torch.Tensor of shape (n_taps, n_taps)
        ``M[j, k]`` is the sum of R[first + r + j, first + r + k] over the rows r, R
        being 0 outside of the window.
    """
    n_times, n_lags = moments.band.shape
    sums = moments.band.cumsum(dim=0)
    sums = F.pad(sums, (0, max(n_taps - n_lags, 0), 1, 0))
    taps = torch.arange(n_taps, device=sums.device)
    low = (first + taps).clamp(0, n_times)
    high = (first + n_rows + taps).clamp(0, n_times)
    lag = (taps[:, None] - taps).abs()
    smaller = torch.minimum(taps[:, None], taps)
    return sums[high[smaller], lag] - sums[low[smaller], lag]


def mean_met(moments: Moments, n_taps: int, first: int, n_rows: int) -> torch.Tensor:
    """Give what the taps of a filter meet of the mean window on its way.

    Parameters
    ----------
    moments : Moments
        Of the windows.
    n_taps, first, n_rows : int
        As for :func:`diagonal_sums`.

    Returns
    -------
    met : torch.Tensor of shape (n_taps, n_rows)
        ``met[j, r]`` is m[first + r + j], and 0 outside of the window.
    """
    return windows_of(moments.mean, n_taps, first, n_rows).contiguous()


def windows_of(
    signal: torch.Tensor, n_taps: int, first: int, n_rows: int
) -> torch.Tensor:
    """Cut ``signal[first + r + j]``, 0 outside of it: (n_taps, n_rows).

    Examples
    --------
    >>> import torch
    >>> windows_of(torch.tensor([5, 6, 7]), n_taps=2, first=-1, n_rows=3)
    tensor([[0, 5, 6],
            [5, 6, 7]])
    """
    after = first + n_rows + n_taps - 1 - len(signal)
    return F.pad(signal, (-first, after)).unfold(0, n_rows, 1)


def covariance_block(moments: Moments, columns: range) -> torch.Tensor:
    """Covariance of some consecutive samples: (n_columns, n_columns)."""
    index = torch.arange(columns.start, columns.stop, device=moments.band.device)
    return _covariance(moments.band, index[:, None], index)


def covariance_met(
    moments: Moments, columns: range, n_taps: int, first: int, samples: range
) -> torch.Tensor:
    """Covariance of some samples with what a filter meets elsewhere.

    Parameters
    ----------
    moments : Moments
        Of the windows.
    columns : range
        Samples s of the windows.
    n_taps, first : int
        As for :func:`diagonal_sums`.
    samples : range
        Output samples t.

    Returns
    -------
    covariance : torch.Tensor of shape (n_taps, n_samples * n_columns)
        R[s, first + t + j] for tap j, t the slower one of the other index.
    """
    band = moments.band
    met = range(first + samples.start, first + samples.stop + n_taps - 1)
    at = torch.arange(met.start, met.stop, device=band.device)
    inputs = torch.arange(columns.start, columns.stop, device=band.device)
    block = _covariance(band, inputs[:, None], at)
    return block.unfold(1, n_taps, 1).permute(2, 1, 0).flatten(1)


def _covariance(band: torch.Tensor, s: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """R[s, t], and 0 outside of the window or of the lags that are known."""
    n_times, n_lags = band.shape
    lag = (s - t).abs()
    known = (lag < n_lags) & (t >= 0) & (t < n_times)
    smaller = torch.minimum(s, t).clamp(0, n_times - 1)
    return torch.where(known, band[smaller, lag.clamp(max=n_lags - 1)], 0.0)


class Edge(NamedTuple):
    """By how much some output samples' filters differ from the filter of the others.

    Attributes
    ----------
    samples : range
        Output samples.
    rows : torch.Tensor of shape (n_filters, n_samples, n_columns)
        Difference of their filters, as weights of the input samples in `columns`.
    columns : range
        Input samples; outside of them there is no difference.
    """

    samples: range
    rows: torch.Tensor
    columns: range

    def spread(self, values: torch.Tensor, n_out: int) -> torch.Tensor:
        """Put (n_filters, n_samples) values at their place in (n_filters, n_out)."""
        return F.pad(values, (self.samples.start, n_out - self.samples.stop))


def filter_statistics(
    moments: Moments,
    whole: torch.Tensor,
    first: int,
    n_out: int,
    constant: torch.Tensor | None = None,
    edges: Sequence[Edge] = (),
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance of filtered windows over batch, channels and time.

    Parameters
    ----------
    moments : Moments
        Of the windows.
    whole : torch.Tensor of shape (n_filters, n_taps), float64
        Filters, of all output samples but those in `edges`.
    first : int
        Input sample that tap 0 meets in output sample 0; may be negative.
    n_out : int
        Number of output samples.
    constant : torch.Tensor of shape (n_filters, 1) or (n_filters, n_out) or None
        Added to the output samples.
    edges : sequence of Edge
        Output samples whose filters differ.

    Returns
    -------
    mean, variance : torch.Tensor of shape (n_filters,), float64
        The variance is the population's.

    Notes
    -----
    With the filters h + d_t, the sum over t of (h + d_t)^T R (h + d_t) is that of
    h^T R h, which the diagonal sums give, plus, for the few t with a d_t of few
    samples, 2 d_t^T R h + d_t^T R d_t.
    """
    way = (whole.shape[1], first, n_out)
    means = whole @ moments.kept(mean_met, *way)
    if constant is not None:
        means = means + constant
    sums = moments.kept(diagonal_sums, *way)
    squares = QuadraticForm.apply(whole[:, None], sums)
    for edge in edges:
        rows, at = edge.rows, slice(edge.columns.start, edge.columns.stop)
        block = moments.kept(covariance_block, edge.columns)
        place = (edge.columns, whole.shape[1], first, edge.samples)
        met = (whole @ moments.kept(covariance_met, *place)).view_as(rows)
        squares = squares + QuadraticForm.apply(rows, block)
        squares = squares + 2 * (rows * met).sum(dim=(1, 2))
        means = means + edge.spread(rows @ moments.mean[at], n_out)
    return means.mean(dim=1), squares / n_out + means.var(dim=1, correction=0)


class QuadraticForm(torch.autograd.Function):
    """Sum over the rows r of each filter of r^T M r, for a symmetric M.

    ``apply(rows, matrix)`` with rows of shape (n_filters, n_rows, n) and matrix of
    shape (n, n), which gets no gradient, gives a tensor of shape (n_filters,). Written
    out because its gradient, 2 M r, is half the work of torch's own.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(rows: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
        """Sum."""
        return (_times(rows, matrix) * rows).sum(dim=(1, 2))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Keep the inputs."""
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Give 2 M r."""
        rows, matrix = ctx.saved_tensors
        return _times(rows, matrix) * (2 * grad)[:, None, None], None


def _times(rows: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    return (rows.flatten(0, 1) @ matrix).view_as(rows)


class MomentsMemory:
    """Moments of the windows that were seen last.

    Both passes of a SAM step, and all branches of a model, filter the same windows.
    Whether they are the same is told by their values, since windows change without a
    trace, through NumPy or ``.data``. Accelerators, which would have to be waited for,
    count anew.

    Parameters
    ----------
    capacity : int
        Number of different windows to remember.
    """

    def __init__(self, capacity: int = 1) -> None:
        self._capacity = capacity
        self._n_lags = 0
        self._known: list[tuple[torch.Tensor, Moments]] = []

    def __reduce__(self) -> tuple[Any, ...]:
        return MomentsMemory, (self._capacity,)

    def moments_of(self, x: torch.Tensor, n_lags: int) -> Moments:
        """Count, or remember.

        Parameters
        ----------
        x : torch.Tensor of shape (batch, n_chans, n_times)
            Windows.
        n_lags : int
            As for :func:`window_moments`; more if more have been needed before.

        Returns
        -------
        moments : Moments
            With at least `n_lags` lags.
        """
        x = x.detach()
        self._n_lags = max(self._n_lags, n_lags)
        wanted = min(self._n_lags, x.shape[-1])
        if x.device.type != "cpu" or torch.is_inference_mode_enabled():
            return window_moments(x, wanted)  # what inference mode makes stays there
        for windows, moments in self._known:
            if moments.band.shape[1] >= n_lags and _is_same(windows, x):
                return moments
        moments = window_moments(x, wanted)
        # Windows of inference mode may not be kept either; a copy may.
        known = (x.clone(), moments)
        self._known = [known, *self._known[: self._capacity - 1]]
        return moments


def _is_same(windows: torch.Tensor, x: torch.Tensor) -> bool:
    return windows.dtype == x.dtype and torch.equal(windows, x)
