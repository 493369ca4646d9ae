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
    covariance = (signals.T @ signals).double()
    cross = (signals.T @ centred.to(signals.dtype)).double()
    covariance += cross[:, None] + cross + centred.square().sum()
    padded = F.pad(covariance / len(signals), (0, n_lags))
    band = padded.as_strided((n_times, n_lags), (n_times + n_lags + 1, 1))
    sums = F.pad(band.cumsum(dim=0), (0, 0, 1, 0))
    return Moments(mean + offset.mean(), band, sums)


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


def filter_statistics(moments, whole, first, edges=(), shift=None):
    """Mean and variance of filtered windows over batch, channels and time.

    Parameters
    ----------
    moments : Moments
        Of the windows.
    whole : torch.Tensor of shape (n_filters, n_taps)
        Filter of all output samples but those in `edges`.
    first : int
        Input sample that tap 0 meets in output sample 0; may be negative.
    edges : sequence of (range, torch.Tensor of shape (n_filters, len(range), n_taps))
        Output samples with filters of their own, at the beginning and at the end.
    shift : torch.Tensor of shape (n_filters, n_out)
        What is added to each output sample.

    Returns
    -------
    mean, variance : torch.Tensor of shape (n_filters,), float64
        The variance is the population's.
    """
    n_times = len(moments.mean)
    whole, n_out = whole.double(), shift.shape[1]
    n_taps = whole.shape[1]
    means = _filter_mean(moments.mean, whole, first, n_out)
    inner = range(0, n_out)
    squares = 0.0
    for samples, filters in edges:
        if not len(samples):
            continue
        rows, columns = dense_rows(filters.double(), first + samples.start, n_times)
        block = _dense_block(moments.band, columns)
        met = (rows.flatten(0, 1) @ block).view_as(rows)
        squares = squares + (met * rows).sum(dim=(1, 2))
        edge_means = rows @ moments.mean[columns]
        means = torch.cat(
            [means[:, : samples.start], edge_means, means[:, samples.stop :]], dim=1
        )
        is_head = samples.start == 0
        inner = (
            range(samples.stop, inner.stop)
            if is_head
            else range(inner.start, samples.start)
        )
    if len(inner):
        start = first + inner.start
        sums = diagonal_sums(moments.sums, n_taps, start, len(inner))
        squares = squares + ((whole @ sums) * whole).sum(dim=1)
    means = means + shift.double()
    return means.mean(dim=1), squares / n_out + means.var(dim=1, correction=0)


def _filter_mean(mean, whole, first, n_out):
    n_times, n_taps = len(mean), whole.shape[1]
    padding = (-first, first + n_out + n_taps - 1 - n_times)
    padded = F.pad(mean, padding)
    return F.conv1d(padded[None, None], whole[:, None])[0]


def _dense_block(band, columns):
    n_lags = band.shape[1]
    index = torch.arange(columns.start, columns.stop, device=band.device)
    lag = (index[:, None] - index).abs()
    block = band[torch.minimum(index[:, None], index), lag.clamp(max=n_lags - 1)]
    return torch.where(lag < n_lags, block, 0.0)
