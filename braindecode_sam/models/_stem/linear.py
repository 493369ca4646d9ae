r"""Temporal and spatial filters in the cheaper order.

EEGNet begins with conv(time) -> BN -> depthwise conv(channels), EEGNeX with conv(time)
-> BN -> conv(time) -> BN -> depthwise conv(channels), EEGConformer with conv(time) ->
conv(channels). There is no nonlinearity in between. A temporal filter acts on all
channels in the same way, and a spatial filter on all samples, so they commute.
Projecting the channels first leaves few signals to filter, and avoids the tensor of
shape (batch, filter, channel, time).

Notation, for a window x of C channels and T samples: w1 (F, K1) and w2 (G, F, K2) are
the temporal filters, zero-padded by p1, q1 and p2, q2 samples left and right;
v = a u + b is the first batch normalization of u = w1 * x, and A z + B the second of
z = w2 * v; W (O, C) is the spatial filter, whose output o reads filter g(o). With
s_o = sum_c W[o, c] x_c and S_o = sum_c W[o, c],

.. math:: y_o = A_g (L_g s_o + S_o \zeta_g) + B_g S_o .

L_g is the composed filter :math:`h_g[j] = \sum_f a_f \sum_{k+l=j} w2[g,f,k] w1[f,l]`
except where the second convolution reads its own zero padding instead of the first
one's output. There, near both ends, some k drop out of the sum. zeta_g is the response
to the shift b, :math:`\zeta_g[t] = \sum_f b_f \sum_k w2[g,f,k]` over the k that read no
padding.

:class:`Filters` holds L and the constants, scales included. The batch statistics of u
and z come from :mod:`braindecode_sam.models._stem.moments`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention

from braindecode_sam.models._eager import cached_by_size
from braindecode_sam.models._fft_conv import FFTConvolution

Pad = tuple[int, int]  # samples at the left and at the right


class Edge(NamedTuple):
    """Difference of the filters at one end from the interior filter."""

    samples: range  # of the output
    rows: torch.Tensor  # weights, (n_filters, n_samples, n_columns)
    columns: range  # samples of the input whose weights differ


class Filters(NamedTuple):
    """Temporal filters, the same for all channels, and their constants, in float64."""

    interior: torch.Tensor  # (n_filters, n_taps), of all output samples but the edges
    first: int  # input sample that tap 0 reads in output sample 0; may be negative
    n_times: int  # samples of the input
    n_out: int  # samples of the output
    constant: torch.Tensor | None = None  # added, (n_filters, 1 or n_out)
    edges: tuple[Edge, ...] = ()  # at both ends, or none


def compose_taps(w1: torch.Tensor, w2: torch.Tensor) -> torch.Tensor:
    """Compose two convolutions over time, one tap of the second at a time.

    w1 of shape (n_first, n_taps_1) and w2 of shape (n_second, n_first, n_taps_2) give
    the contributions of each tap of w2, of shape (n_second, n_taps_2, n_taps_1 +
    n_taps_2 - 1). Their sum over the taps gives the composed filters h.

    Examples
    --------
    >>> import torch
    >>> compose_taps(torch.tensor([[1, 2]]), torch.tensor([[[10, 100]]]))
    tensor([[[ 10,  20,   0],
             [  0, 100, 200]]])
    """
    products = w2.mT @ w1
    n_rows, n_columns = products.shape[1:]
    width = n_rows + n_columns - 1
    # Reading the buffer with rows one sample shorter shifts each row by one sample.
    flat = F.pad(products, (0, n_rows)).flatten(1)[:, : n_rows * width]
    return flat.unflatten(1, (n_rows, width))


class _Taps(NamedTuple):
    """Taps of a second convolution that contribute to each output sample."""

    n_out: int
    head: range  # output samples where some taps read padding
    tail: range
    # Ones, then a row for each sample in head and tail, with -1 for taps that drop out.
    sums: torch.Tensor  # (1 + n_head + n_tail, n_taps_2), float64
    inside: torch.Tensor  # 1 where a tap reads no padding, (n_taps_2, n_out), float64


@cached_by_size
def _taps(n_between: int, n_taps_2: int, pad_2: Pad, device: torch.device) -> _Taps:
    n_out = n_between + sum(pad_2) - n_taps_2 + 1
    t = torch.arange(n_out, device=device)[:, None]
    read = t + torch.arange(n_taps_2, device=device) - pad_2[0]
    inside = ((read >= 0) & (read < n_between)).double()
    head = range(0, min(pad_2[0], n_out))
    tail = range(max(n_out - pad_2[1], head.stop), n_out)
    dropped = inside - 1
    sums = torch.cat(
        [torch.ones_like(dropped[:1])]
        + [dropped[samples.start : samples.stop] for samples in (head, tail)]
    )
    return _Taps(n_out, head, tail, sums, inside.T.contiguous())


def spread_rows(taps: torch.Tensor, first: int, columns: range) -> torch.Tensor:
    """Return the weights of input samples in consecutive output samples.

    `taps` has the shape (n_filters, n_rows, n_taps), the filter of each output sample.
    Row r of the result is ``taps[:, r, s - first - r]`` for each s in `columns`, or 0
    where that tap does not exist.

    Examples
    --------
    >>> import torch
    >>> spread_rows(torch.tensor([[[1, 2], [3, 4]]]), first=-1, columns=range(0, 3))
    tensor([[[2, 0, 0],
             [3, 4, 0]]])
    """
    n_rows, n_taps = taps.shape[1:]
    low = columns.start - first - n_rows + 1
    width = n_rows + len(columns) + 1
    used_taps = range(n_taps)[max(low, 0) : max(low + width, 0)]
    left = min(max(-low, 0), width) - used_taps.start
    flat = F.pad(taps, (left, width - n_taps - left)).flatten(1)
    # Reading the buffer with rows one sample shorter shifts each row by one sample.
    flat = flat.narrow(1, max(n_rows - 1, 0), n_rows * (width - 1))
    spread = flat.unflatten(1, (n_rows, width - 1)).narrow(2, 0, len(columns))
    return spread.contiguous()  # since it is read several times


def compose(
    filters: Filters, weight: torch.Tensor, bias: torch.Tensor | None, pad: Pad
) -> Filters:
    """Compose filters with a second convolution over time.

    The filters are normalized, have no edges, and a constant that does not depend on
    time. The weight of the second convolution has the shape (n_second, n_first,
    n_taps_2), its bias (n_second,), both float64.
    """
    n_between, n_taps_2 = filters.n_out, weight.shape[2]
    parts = compose_taps(filters.interior, weight)
    taps = _taps(n_between, n_taps_2, pad, weight.device)
    start, n_times = filters.first - pad[0], filters.n_times
    places = taps.head, taps.tail
    interior, *rows = (taps.sums @ parts).split([1, *map(len, places)], dim=1)
    # Dropped taps would read the first convolution's output before its beginning or
    # after its end, which depends on few input samples. In very short windows, one
    # output sample drops taps on both sides, and all input samples count.
    reach = (filters.interior.shape[1] - 1 + filters.first, n_between + filters.first)
    reach = reach if n_between >= n_taps_2 else (n_times, 0)
    columns = (
        range(0, min(max(reach[0], 0), n_times)),
        range(max(min(reach[1], n_times), 0), n_times),
    )
    edges = tuple(
        Edge(samples, spread_rows(part, start + samples.start, inputs), inputs)
        for samples, part, inputs in zip(places, rows, columns, strict=True)
    )
    constant = None
    if filters.constant is not None:
        added = torch.einsum("f,gfk->gk", filters.constant.flatten(), weight)
        constant = added @ taps.inside
    if bias is not None:
        constant = bias[:, None] + (0 if constant is None else constant)
    edges = edges if any(pad) else ()
    interior = interior.squeeze(1)
    return Filters(interior, start, n_times, taps.n_out, constant, edges)


def filter_projections(
    x: torch.Tensor, filters: Filters, spatial: torch.Tensor
) -> torch.Tensor:
    """Project the channels, then filter: y_o = L_g s_o + S_o constant_g.

    x has the shape (batch, n_chans, n_times), `spatial` (n_filters * depth, n_chans),
    and the result (batch, n_filters * depth, n_out).
    """
    shape = (len(filters.interior), len(spatial) // len(filters.interior))
    signals = (spatial.expand(len(x), *spatial.shape) @ x).unflatten(1, shape)
    interior = filters.interior[:, None].to(x.dtype)
    y = FFTConvolution.apply(signals, interior, filters.first, filters.n_out, 1)
    if filters.constant is not None:
        total = spatial.sum(dim=1).view(*shape, 1)
        y = y + total * filters.constant[:, None].to(x.dtype)
    if filters.edges:
        head, tail = (_weigh(signals, edge) for edge in filters.edges)
        n_between = filters.n_out - head.shape[3] - tail.shape[3]
        between = head.new_zeros(1).expand(*head.shape[:3], n_between)
        y = y + torch.cat([head, between, tail], dim=3)
    return y.flatten(1, 2)


def _weigh(signals: torch.Tensor, edge: Edge) -> torch.Tensor:
    read = signals[..., edge.columns.start : edge.columns.stop].transpose(0, 1)
    # One product for each filter; broadcasting would make one for each window too.
    weighed = read.flatten(1, 2) @ edge.rows.mT.to(signals.dtype)
    return weighed.unflatten(1, read.shape[1:3]).transpose(0, 1)


def filter_channels(
    x: torch.Tensor, filters: Filters, spatial: torch.Tensor
) -> torch.Tensor:
    """Filter with one kernel over channels and time, the product of both.

    x has the shape (batch, n_chans, n_times), `spatial` (n_outputs, n_filters,
    n_chans), and the result (batch, n_outputs, n_out). The filters have no edges.
    """
    kernel = torch.einsum("ofc,fk->ock", spatial, filters.interior.to(x.dtype))
    if x.device.type == "cpu":
        signals = x[:, :, None]
        y = FFTConvolution.apply(signals, kernel, filters.first, filters.n_out, 1)
        y = y.squeeze(2)
    else:
        right = filters.n_out + kernel.shape[2] - 1 - filters.n_times + filters.first
        y = F.conv1d(F.pad(x, (-filters.first, right)), kernel)
    if filters.constant is not None:
        y = y + spatial.sum(dim=2) @ filters.constant.to(x.dtype)
    return y
