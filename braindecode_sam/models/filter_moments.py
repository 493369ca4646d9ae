r"""Mean and variance of filtered windows, from the moments of the windows alone.

With the windows' mean over batch and channels m[t], and their covariance R[s, t] about
it, an output :math:`z[t] = e_t \cdot x` of filter e_t has the variance over batch,
channels and time

.. math:: \frac{1}{T} \sum_t e_t^T R e_t + \mathrm{var}_t(e_t \cdot m) .

Where all e_t are one filter h, the sum is h^T M h with M[j, k] a sum along a diagonal
of R. R depends on the data alone: it needs no gradient.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention


class Moments(NamedTuple):
    """First and second moments of windows over batch and channels, in float64.

    Attributes
    ----------
    mean : torch.Tensor of shape (n_times,)
        Mean window m.
    band : torch.Tensor of shape (n_times, n_lags)
        Covariance R[t, t + lag]; 0 where t + lag is past the end.
    sums : torch.Tensor of shape (n_times + 1, n_lags)
        Its cumulative sum over time, beginning with 0.
    """

    mean: torch.Tensor
    band: torch.Tensor
    sums: torch.Tensor


def window_moments(x, n_lags):
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
    n_times = x.shape[-1]
    signals = x.detach().reshape(-1, n_times)
    offset = signals.mean(dim=1)
    signals = signals - offset[:, None]
    mean = signals.mean(dim=0, dtype=torch.float64)
    signals = signals - mean.to(signals.dtype)
    offset = offset.double()
    centred = offset - offset.mean()
    cross = (signals.T @ centred.to(signals.dtype)).double()
    constant = centred.square().sum()
    products = _banded_products(signals, n_lags).double()
    band = products + constant + cross[:, None] + _shifted(cross, n_lags)
    inside = _shifted(torch.ones_like(cross), n_lags)
    band = band * inside / len(signals)
    sums = F.pad(band.cumsum(dim=0), (0, 0, 1, 0))
    return Moments(mean + offset.mean(), band, sums)


BLOCK = 256  # samples; the product is made for a band of this height at a time


def _banded_products(signals, n_lags):
    """Sum over the signals of x[t] x[t + lag]: (n_times, n_lags)."""
    n_times = signals.shape[1]
    bands = []
    for start in range(0, n_times, BLOCK):
        height = min(BLOCK, n_times - start)
        width = min(height + n_lags - 1, n_times - start)
        rows = signals[:, start : start + height]
        block = rows.T @ signals[:, start : start + width]
        block = F.pad(block, (0, height + n_lags - width))
        bands.append(block.as_strided((height, n_lags), (height + n_lags + 1, 1)))
    return torch.cat(bands)


def _shifted(values, n_lags):
    """values[t + lag], and 0 past the end: (n_times, n_lags)."""
    return F.pad(values, (0, n_lags)).unfold(0, n_lags, 1)[: len(values)]


def shift_rows(rows):
    """Shift row i to the right by i, dropping what leaves.

    Parameters
    ----------
    rows : torch.Tensor of shape (n, n_rows, n_columns)
        Zero in the last ``n_rows - 1`` columns, or those are lost.

    Returns
    -------
    shifted : torch.Tensor of shape (n, n_rows, n_columns)
        The same numbers.

    Examples
    --------
    >>> import torch
    >>> shift_rows(torch.tensor([[[1, 2, 0], [3, 4, 0]]]))
    tensor([[[1, 2, 0],
             [0, 3, 4]]])
    """
    n, n_rows, n_columns = rows.shape
    flat = F.pad(rows, (0, 1)).reshape(n, -1)[:, : n_rows * n_columns]
    return flat.reshape(n, n_rows, n_columns)


def dense_rows(filters, first, n_times):
    """Spread filters of consecutive output samples over the input's samples.

    Parameters
    ----------
    filters : torch.Tensor of shape (n_filters, n_rows, n_taps)
        Filter of each of the output samples.
    first : int
        Input sample that tap 0 of the first row meets; may be negative.
    n_times : int
        Samples of the input.

    Returns
    -------
    rows : torch.Tensor of shape (n_filters, n_rows, n_columns)
        Weights of the input samples in `columns`.
    columns : slice
        The input samples that any row meets.
    """
    rows = shift_rows(F.pad(filters, (0, max(filters.shape[1] - 1, 0))))
    low, high = max(first, 0), min(first + rows.shape[2], n_times)
    high = max(high, low)
    return rows[..., low - first : high - first], slice(low, high)


def diagonal_sums(sums, n_taps, first, n_rows):
    """Sum of the covariances that a filter meets on its way over the samples.

    Parameters
    ----------
    sums : torch.Tensor of shape (n_times + 1, n_lags)
        Of :class:`Moments`, with at least `n_taps` lags, or `n_times`.
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
    n_times = len(sums) - 1
    sums = F.pad(sums, (0, max(n_taps - sums.shape[1], 0)))
    taps = torch.arange(n_taps, device=sums.device)
    low = (first + taps).clamp(0, n_times)
    high = (first + n_rows + taps).clamp(0, n_times)
    lag = (taps[:, None] - taps).abs()
    smaller = torch.minimum(taps[:, None], taps)
    return sums[high[smaller], lag] - sums[low[smaller], lag]


class Edge(NamedTuple):
    """By how much some output samples' filters differ from the filter of the others.

    Attributes
    ----------
    samples : range
        Output samples.
    rows : torch.Tensor of shape (n_filters, n_samples, n_columns)
        Difference of their filters, as weights of the input samples in `columns`.
    columns : slice
        Input samples; outside of them there is no difference.
    """

    samples: range
    rows: torch.Tensor
    columns: slice


def filter_statistics(moments, whole, first, shift, edges=()):
    """Mean and variance of filtered windows over batch, channels and time.

    Parameters
    ----------
    moments : Moments
        Of the windows.
    whole : torch.Tensor of shape (n_filters, n_taps)
        Filters, of all output samples but those in `edges`.
    first : int
        Input sample that tap 0 meets in output sample 0; may be negative.
    shift : torch.Tensor of shape (n_filters, n_out)
        What is added to each output sample.
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
    whole, n_out = whole.double(), shift.shape[1]
    windows = _tap_windows(moments.mean, whole.shape[1], first, n_out)
    means = whole @ windows.T + shift.double()
    sums = diagonal_sums(moments.sums, whole.shape[1], first, n_out)
    squares = QuadraticForm.apply(whole[:, None], sums)
    for samples, rows, columns in edges:
        rows = rows.double()
        squares = squares + QuadraticForm.apply(rows, _block(moments.band, columns))
        met = _covariance_with_taps(moments.band, columns, samples, first, whole)
        squares = squares + 2 * (rows * met).sum(dim=(1, 2))
        added = rows @ moments.mean[columns]
        before, after = samples.start, n_out - samples.stop
        means = means + F.pad(added, (before, after))
    return means.mean(dim=1), squares / n_out + means.var(dim=1, correction=0)


def _tap_windows(mean, n_taps, first, n_out):
    """For each output sample what the taps meet of the mean window: (n_out, n_taps)."""
    padded = F.pad(mean, (-first, max(first + n_out + n_taps - 1 - len(mean), 0)))
    return padded.unfold(0, n_taps, 1)[:n_out]


def _block(band, columns):
    index = torch.arange(columns.start, columns.stop, device=band.device)
    return _covariance(band, index[:, None], index)


def _covariance_with_taps(band, columns, samples, first, filters):
    """Covariance of input samples with filtered ones: (n_filters, samples, columns)."""
    taps = torch.arange(filters.shape[1], device=band.device)
    at = torch.arange(samples.start, samples.stop, device=band.device)
    inputs = torch.arange(columns.start, columns.stop, device=band.device)
    met = first + at[:, None, None] + taps
    covariance = _covariance(band, inputs[:, None], met)
    shape = covariance.shape[:2]
    return (filters @ covariance.flatten(0, 1).T).unflatten(1, shape)


def _covariance(band, s, t):
    """R[s, t], and 0 outside of the window or of the lags that are known."""
    n_times, n_lags = band.shape
    lag = (s - t).abs()
    known = (lag < n_lags) & (t >= 0) & (t < n_times)
    smaller = torch.minimum(s, t).clamp(0, n_times - 1)
    return torch.where(known, band[smaller, lag.clamp(max=n_lags - 1)], 0.0)


class QuadraticForm(torch.autograd.Function):
    """Sum over the rows r of each filter of r^T M r, for a symmetric M.

    ``apply(rows, matrix)`` with rows of shape (n_filters, n_rows, n) and matrix of
    shape (n, n), which gets no gradient, gives a tensor of shape (n_filters,). Written
    out because its gradient, 2 M r, is half the work of torch's own.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(rows, matrix):
        """Sum."""
        return (_times(rows, matrix) * rows).sum(dim=(1, 2))

    @staticmethod
    def setup_context(ctx, inputs, output):
        """Keep the inputs."""
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad):
        """Give 2 M r."""
        rows, matrix = ctx.saved_tensors
        return _times(rows, matrix) * (2 * grad)[:, None, None], None


def _times(rows, matrix):
    return (rows.flatten(0, 1) @ matrix).view_as(rows)
