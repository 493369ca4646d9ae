r"""Batch normalization of filtered windows as a scale and a shift of the filters.

With the windows' mean over batch and channels m[t], and their covariance R[s, t] about
it, an output :math:`z[t] = e_t \cdot x + c_t` of filter e_t has the mean and variance
over batch, channels and time

.. math::
    \mu = \frac{1}{T} \sum_t (e_t \cdot m + c_t), \qquad \sigma^2 = \frac{1}{T} \sum_t
    e_t^T R e_t + \operatorname{var}_t(e_t \cdot m + c_t) .

Where all e_t are the same filter h, the first sum is h^T M h, and each M[j, k] is a sum
along a diagonal of R. Near the ends the filters are h + d_t. Each of these few t adds
:math:`2 d_t^T R h + d_t^T R d_t`.

The moments m and R depend on the data only. They need no gradient, and both passes of a
SAM step share them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention

from braindecode_sam.models._eager import cached_by_size
from braindecode_sam.models._stem.linear import Filters


class Moments:
    """First and second moments of windows over batch and channels, in float64.

    Values derived from them are cached too. The values of filters change between
    passes, but the samples that they read do not.
    """

    def __init__(self, mean: torch.Tensor, band: torch.Tensor) -> None:
        self.mean = mean  # m, (n_times,)
        # R[t, t + lag], (n_rows, n_lags), 0 where t + lag is past the end. It has at
        # least one row more than there are samples.
        self.band = band
        self._cache: dict[tuple[Any, ...], torch.Tensor] = {}

    def cached(self, function: Callable[..., torch.Tensor], *args: Any) -> torch.Tensor:
        """Return ``function(self, *args)``, computed once."""
        key = (function, *args)
        if key not in self._cache:
            self._cache[key] = function(self, *args)
        return self._cache[key]


def window_moments(x: torch.Tensor, n_lags: int) -> Moments:
    """Compute central moments of windows for `n_lags` lags, at most n_times.

    x has the shape (batch, n_chans, n_times). No gradient flows to it. The moments are
    those of all batch * n_chans signals.

    Each signal's mean over time is subtracted before the large product and added back
    in float64. Otherwise an offset of 10,000 standard deviations would cancel all
    digits.
    """
    signals = x.detach().reshape(-1, x.shape[-1])
    offset = signals.mean(dim=1)
    signals = signals - offset[:, None]
    level = offset.mean()
    offset = offset - level
    mean = signals.mean(dim=0)
    signals -= mean
    cross = (offset @ signals).double()
    cross.add_(torch.dot(offset, offset), alpha=0.5)
    n_signals, n_times = signals.shape
    n_blocks = n_times // BLOCK + 1
    products = _banded_products(signals, n_blocks, n_lags)
    lagged = F.pad(cross, (0, n_blocks * BLOCK + n_lags - n_times))
    lagged = lagged.unfold(0, n_lags, 1)[: n_blocks * BLOCK]
    band = lagged + lagged[:, :1]
    band *= _pairs_within(n_times, n_lags, n_signals, x.device)
    band = torch.add(band.view_as(products), products, alpha=1 / n_signals)  # float64
    return Moments(mean.double() + level, band.flatten(0, 1))


BLOCK = 32  # samples; height of the bands for which the product is computed


def _banded_products(signals: torch.Tensor, n_blocks: int, n_lags: int) -> torch.Tensor:
    """Sum x[t] x[t + lag] over the signals: (n_blocks, BLOCK, n_lags)."""
    n_times, width = signals.shape[1], BLOCK + n_lags
    padded = F.pad(signals, (0, n_blocks * BLOCK + n_lags - n_times))
    rows = padded[:, : n_blocks * BLOCK].unflatten(1, (n_blocks, BLOCK))
    reach = padded.unfold(1, width, BLOCK)[:, :n_blocks]
    products = rows.permute(1, 2, 0) @ reach.transpose(0, 1)
    # Row r of a block begins with lag -r.
    strides = (BLOCK * width, width + 1, 1)
    return products.as_strided((n_blocks, BLOCK, n_lags), strides)


@cached_by_size
def _pairs_within(
    n_times: int, n_lags: int, n_signals: int, device: torch.device
) -> torch.Tensor:
    """Return 1 / n_signals, or 0 where t + lag is past the end."""
    t = torch.arange((n_times // BLOCK + 1) * BLOCK, device=device)[:, None]
    is_within = t + torch.arange(n_lags, device=device) < n_times
    return is_within.double() / n_signals


def diagonal_sums(
    moments: Moments, n_taps: int, first: int, n_rows: int
) -> torch.Tensor:
    """Sum the covariances of the samples that a sliding filter reads.

    Tap 0 reads the input sample `first` in the first of `n_rows` output samples. The
    result M of shape (n_taps, n_taps) has the sums of R[first + r + j, first + r + k]
    over the rows r. R is 0 outside of the window. The moments have `n_taps` lags, or
    n_times.
    """
    n_lags = moments.band.shape[1]
    n_lags_needed = max(n_lags, n_taps)
    sums = F.pad(moments.band.cumsum(dim=0), (0, n_lags_needed - n_lags, 1, 0))
    n_times = len(moments.mean)
    index = _diagonal_index(n_times, n_lags_needed, n_taps, first, n_rows, sums.device)
    high, low = sums.flatten()[index]
    return high - low


@cached_by_size
def _diagonal_index(
    n_times: int, n_lags: int, n_taps: int, first: int, n_rows: int,
    device: torch.device,
) -> torch.Tensor:  # fmt: skip
    """Index the ends and beginnings of sums along diagonals: (2, n_taps, n_taps)."""
    taps = torch.arange(n_taps, device=device)
    lag = (taps[:, None] - taps).abs()
    smaller = torch.minimum(taps[:, None], taps)
    begin = (first + smaller).clamp(0, n_times)
    end = (first + n_rows + smaller).clamp(0, n_times)
    return torch.stack([end, begin]) * n_lags + lag


def unfolded_mean(
    moments: Moments, n_taps: int, first: int, n_rows: int
) -> torch.Tensor:
    """Return the samples of the mean window that each tap of a filter reads.

    The arguments are those of :func:`diagonal_sums`, the shape is (n_taps, n_rows).
    Samples outside of the window are 0.
    """
    after = first + n_rows + n_taps - 1 - len(moments.mean)
    return F.pad(moments.mean, (-first, after)).unfold(0, n_rows, 1).contiguous()


def cross_covariance(
    moments: Moments, columns: range, n_taps: int, first: int, samples: range
) -> torch.Tensor:
    """Return the covariance of some samples with the samples that a filter reads.

    That is R[s, first + t + j] for the samples s in `columns`, the output samples t in
    `samples` and tap j. The shape is (n_taps, n_samples * n_columns), and the second
    index runs over s, then over t.
    """
    if not samples:  # two taps with padding "same" have no tail
        return moments.band.new_zeros(n_taps, 0)
    reads = range(first + samples.start, first + samples.stop + n_taps - 1)
    block = covariance(moments, columns, reads)
    return block.unfold(1, n_taps, 1).permute(2, 1, 0).flatten(1)


def covariance(moments: Moments, s: range, t: range) -> torch.Tensor:
    """Return R[s, t], or 0 outside of the window and of the known lags."""
    band, n_times = moments.band, len(moments.mean)
    pairs = _pairs(n_times, band.shape[1], s, t, band.device)
    return band.flatten()[pairs]


@cached_by_size
def _pairs(
    n_times: int, n_lags: int, s: range, t: range, device: torch.device
) -> torch.Tensor:
    """Index the covariances of samples in the flattened band."""
    at_s = torch.arange(s.start, s.stop, device=device)[:, None]
    at_t = torch.arange(t.start, t.stop, device=device)
    lag = (at_s - at_t).abs()
    known = (lag < n_lags) & (at_t >= 0) & (at_t < n_times)
    zero = n_times * n_lags  # the row after the last sample is 0
    return torch.where(known, torch.minimum(at_s, at_t) * n_lags + lag, zero)


def normalize_by(
    filters: Filters,
    mean: torch.Tensor,
    variance: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    eps: float,
) -> Filters:
    """Normalize the outputs of filters by given statistics, float64."""
    gain = (variance + eps).rsqrt()
    gain = (gain if weight is None else gain * weight)[:, None]
    constant = -mean[:, None]
    if filters.constant is not None:
        constant = filters.constant + constant
    constant = constant * gain
    return filters._replace(
        interior=gain * filters.interior,
        constant=constant if bias is None else constant + bias[:, None],
        edges=tuple(
            edge._replace(rows=gain[..., None] * edge.rows) for edge in filters.edges
        ),
    )


def statistics_of(
    filters: Filters, moments: Moments
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and variance of the outputs over batch, channels and time."""
    interior, constant = filters.interior, filters.constant
    n_taps, first, n_out = interior.shape[1], filters.first, filters.n_out
    means = interior @ moments.cached(unfolded_mean, n_taps, first, n_out)
    if constant is not None:
        means = means + constant
    products = interior @ moments.cached(diagonal_sums, n_taps, first, n_out)
    squares = (products * interior).sum(dim=1)
    of_edges = []
    for edge in filters.edges:
        rows, columns = edge.rows, edge.columns
        of_edges.append(rows @ moments.mean[columns.start : columns.stop])
        of_rows = rows.flatten(0, 1) @ moments.cached(covariance, columns, columns)
        cross = moments.cached(cross_covariance, columns, n_taps, first, edge.samples)
        both = (interior @ cross).view_as(rows).add(of_rows.view_as(rows), alpha=0.5)
        squares = squares + 2 * (rows * both).sum(dim=(1, 2))
    if of_edges:
        head, tail = of_edges
        between = head.new_zeros(1).expand(
            len(head), n_out - head.shape[1] - tail.shape[1]
        )
        means = means + torch.cat([head, between, tail], dim=1)
    variance, mean = torch.var_mean(means, dim=1, correction=0)
    return mean, variance + squares / n_out


class MomentsMemory:
    """Cache of the moments of the `capacity` most recent windows.

    Both passes of a SAM step, and all branches of a model, filter the same windows. The
    cache compares values, since NumPy and ``.data`` change windows without a trace. On
    an accelerator the comparison would force a synchronization, so the moments are
    computed again.
    """

    def __init__(self, capacity: int = 0) -> None:
        self.capacity = capacity
        self._n_lags = 0
        self._known: list[tuple[torch.Tensor, Moments]] = []

    def __reduce__(self) -> tuple[Any, ...]:
        return MomentsMemory, (self.capacity,)

    def moments_of(self, x: torch.Tensor, n_lags: int) -> Moments:
        """Compute the moments, or take them from the cache.

        The arguments are those of :func:`window_moments`. Larger numbers of lags of
        earlier calls prevail.
        """
        x = x.detach()
        self._n_lags = max(self._n_lags, n_lags)
        wanted = min(self._n_lags, x.shape[-1])
        if x.device.type != "cpu" or torch.is_inference_mode_enabled():
            return window_moments(x, wanted)  # inference tensors must not be cached
        for windows, moments in self._known:
            has_lags = moments.band.shape[1] >= n_lags
            if has_lags and windows.dtype == x.dtype and torch.equal(windows, x):
                return moments
        moments = window_moments(x, wanted)
        # A copy: the windows themselves may be inference tensors.
        known = (x.clone(), moments)
        self._known = [known, *self._known[: self.capacity - 1]]
        return moments
