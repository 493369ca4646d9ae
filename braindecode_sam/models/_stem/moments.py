"""First and second moments of windows.

They depend on the data only. They need no gradient, and both passes of a SAM step share
them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention

from braindecode_sam.models._eager import cached_by_size


class Moments:
    """First and second moments of windows over batch and channels, in float64.

    Values derived from them are cached too. The values of filters change between
    passes, but the samples that they read do not.

    Attributes
    ----------
    mean : torch.Tensor of shape (n_times,)
        Mean window m.
    band : torch.Tensor of shape (n_rows, n_lags)
        Covariance R[t, t + lag], 0 where t + lag is past the end. At least one row more
        than there are samples.
    """

    def __init__(self, mean: torch.Tensor, band: torch.Tensor) -> None:
        self.mean, self.band = mean, band
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
    band = torch.add(
        band.view_as(products), products, alpha=1 / n_signals
    )  # float64 as band is
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
    """
    return windows_of(moments.mean, n_taps, first, n_rows).contiguous()


def windows_of(
    signal: torch.Tensor, n_taps: int, first: int, n_rows: int
) -> torch.Tensor:
    """Return ``signal[first + r + j]``, or 0 outside of it: (n_taps, n_rows).

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
    """Return the covariance of consecutive samples: (n_columns, n_columns)."""
    return _covariance(moments, columns, columns)


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
    block = _covariance(moments, columns, reads)
    return block.unfold(1, n_taps, 1).permute(2, 1, 0).flatten(1)


def _covariance(moments: Moments, s: range, t: range) -> torch.Tensor:
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


class Edge(NamedTuple):
    """Difference of the filters at one end from the interior filter.

    Attributes
    ----------
    samples : range
        Output samples.
    rows : torch.Tensor of shape (n_filters, n_samples, n_columns)
        Difference of the filters, as weights of the input samples in `columns`.
    columns : range
        Input samples whose weights differ.
    """

    samples: range
    rows: torch.Tensor
    columns: range


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
            if moments.band.shape[1] >= n_lags and _is_same(windows, x):
                return moments
        moments = window_moments(x, wanted)
        # A copy: the windows themselves may be inference tensors.
        known = (x.clone(), moments)
        self._known = [known, *self._known[: self.capacity - 1]]
        return moments


def _is_same(windows: torch.Tensor, x: torch.Tensor) -> bool:
    return windows.dtype == x.dtype and torch.equal(windows, x)
