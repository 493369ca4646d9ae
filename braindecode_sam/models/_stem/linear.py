r"""Temporal and spatial filters in the cheap order, exactly.

EEGNet begins with conv(time) -> BN -> depthwise conv(channels), EEGNeX with
conv(time) -> BN -> conv(time) -> BN -> depthwise conv(channels), EEGConformer with
conv(time) -> conv(channels). There is no nonlinearity in between. Temporal filters act
alike on every channel and the spatial filter alike on every sample, so they commute:
project the channels first, then filter the few projections, and never hold a (batch,
filter, channel, time) tensor.

Notation, for a window x of C channels and T samples: w1 (F, K1) and w2 (G, F, K2) are
the temporal filters, zero-padded by p1, q1 and p2, q2 samples left and right;
v = a u + b is the first batch normalization of u = w1 * x, and A z + B the second of
z = w2 * v; W (O, C) is the spatial filter, whose output o sees filter g(o). With
s_o = sum_c W[o, c] x_c and S_o = sum_c W[o, c],

.. math:: y_o = A_g (L_g s_o + S_o \zeta_g) + B_g S_o .

L_g is the composed filter :math:`h_g[j] = \sum_f a_f \sum_{k+l=j} w2[g,f,k] w1[f,l]`
except where the second convolution reads its own zero padding instead of the first
one's output: there, near both ends, some k drop out of the sum. zeta_g is what b does:
:math:`\zeta_g[t] = \sum_f b_f \sum_k w2[g,f,k]` over the k that read no padding.

:class:`Filters` holds L and what is added, all scales included. Batch statistics of u
and z come from :mod:`braindecode_sam.models._stem.moments`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention

from braindecode_sam.models._cache import cached_by_size
from braindecode_sam.models._fft_conv import FFTConvolution
from braindecode_sam.models._stem.fft_filter import FFTFilter, Place
from braindecode_sam.models._stem.moments import Edge, windows_of

Pad = tuple[int, int]  # samples at the left and at the right


class Filters(NamedTuple):
    """Temporal filters that act on every channel alike, and what is added to them.

    Attributes
    ----------
    whole : torch.Tensor of shape (n_filters, n_taps), float64
        Filters, of all output samples but those in `edges`.
    first : int
        Input sample that tap 0 meets in output sample 0; may be negative.
    n_times, n_out : int
        Samples of the input and of the output.
    constant : torch.Tensor of shape (n_filters, 1) or (n_filters, n_out) or None
        Added to the outputs, float64.
    edges : tuple of Edge
        Output samples whose filters differ.
    """

    whole: torch.Tensor
    first: int
    n_times: int
    n_out: int
    constant: torch.Tensor | None = None
    edges: tuple[Edge, ...] = ()


def temporal_filters(
    weight: torch.Tensor, bias: torch.Tensor | None, pad: Pad, n_times: int
) -> Filters:
    """Read the filters of a convolution over time.

    Parameters
    ----------
    weight : torch.Tensor of shape (n_filters, n_taps), float64
        Its weights.
    bias : torch.Tensor of shape (n_filters,) or None
        Its bias, float64.
    pad : tuple of int
        Samples of padding at the left and at the right.
    n_times : int
        Samples of its input.

    Returns
    -------
    filters : Filters
        Without edges.
    """
    n_out = n_times + sum(pad) - weight.shape[1] + 1
    constant = None if bias is None else bias[:, None]
    return Filters(weight, -pad[0], n_times, n_out, constant)


def compose_taps(w1: torch.Tensor, w2: torch.Tensor) -> torch.Tensor:
    """Compose two temporal convolutions, one tap of the second at a time.

    Parameters
    ----------
    w1 : torch.Tensor of shape (n_first, n_taps_1)
        First filters, scaled by a.
    w2 : torch.Tensor of shape (n_second, n_first, n_taps_2)
        Second filters.

    Returns
    -------
    parts : torch.Tensor of shape (n_second, n_taps_2, n_taps_1 + n_taps_2 - 1)
        What tap k of the second filters adds to the composed ones; the composed
        filters h are the sum over k.

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
    # Read with rows that are one sample shorter, each row begins one sample later.
    flat = F.pad(products, (0, n_rows)).flatten(1)[:, : n_rows * width]
    return flat.unflatten(1, (n_rows, width))


def taps_inside(
    n_between: int, n_taps_2: int, pad_2: Pad, device: torch.device | None = None
) -> torch.Tensor:
    """Which taps of the second convolution read samples, and not its padding.

    Parameters
    ----------
    n_between : int
        Samples between the two convolutions.
    n_taps_2 : int
        Taps of the second one.
    pad_2 : tuple of int
        Its padding, left and right, in samples.
    device : torch.device, optional
        Where the result shall be.

    Returns
    -------
    inside : torch.Tensor of shape (n_out, n_taps_2), bool
        For each output sample and tap.

    Examples
    --------
    >>> taps_inside(3, 3, (1, 1)).int()
    tensor([[0, 1, 1],
            [1, 1, 1],
            [1, 1, 0]], dtype=torch.int32)
    """
    n_out = n_between + sum(pad_2) - n_taps_2 + 1
    t = torch.arange(n_out, device=device)[:, None]
    read = t + torch.arange(n_taps_2, device=device) - pad_2[0]
    return (read >= 0) & (read < n_between)


class _Taps(NamedTuple):
    """Which taps of a second convolution add to which output samples.

    Attributes
    ----------
    n_out : int
        Output samples.
    head, tail : range
        Those at the beginning and at the end that some taps add nothing to.
    sums : torch.Tensor of shape (1 + n_head + n_tail, n_taps_2), float64
        1 for each tap; for each of those samples, -1 for the taps that drop out.
    inside : torch.Tensor of shape (n_taps_2, n_out), float64
        1 where a tap reads a sample, 0 where it reads padding.
    """

    n_out: int
    head: range
    tail: range
    sums: torch.Tensor
    inside: torch.Tensor


@cached_by_size
def _taps(n_between: int, n_taps_2: int, pad_2: Pad, device: torch.device) -> _Taps:
    inside = taps_inside(n_between, n_taps_2, pad_2, device).double()
    n_out = len(inside)
    head = range(0, min(pad_2[0], n_out))
    tail = range(max(n_out - pad_2[1], head.stop), n_out)
    dropped = inside - 1
    sums = torch.cat(
        [torch.ones_like(dropped[:1])]
        + [dropped[samples.start : samples.stop] for samples in (head, tail)]
    )
    return _Taps(n_out, head, tail, sums, inside.T.contiguous())


def spread_rows(taps: torch.Tensor, first: int, columns: range) -> torch.Tensor:
    """Weights that the filters of consecutive output samples give to input samples.

    Parameters
    ----------
    taps : torch.Tensor of shape (n_filters, n_rows, n_taps)
        Filter of each of the output samples.
    first : int
        Input sample that tap 0 of the first row meets; may be negative.
    columns : range
        Input samples.

    Returns
    -------
    rows : torch.Tensor of shape (n_filters, n_rows, n_columns)
        Row r is ``taps[:, r, s - first - r]`` for each s in `columns`, and 0 where
        there is no such tap.

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
    met = range(n_taps)[max(low, 0) : max(low + width, 0)]
    left = min(max(-low, 0), width) - met.start
    flat = F.pad(taps, (left, width - n_taps - left)).flatten(1)
    # Read with rows that are one sample shorter, each row begins one sample earlier.
    flat = flat.narrow(1, max(n_rows - 1, 0), n_rows * (width - 1))
    spread = flat.unflatten(1, (n_rows, width - 1)).narrow(2, 0, len(columns))
    return spread.contiguous()  # it is read several times


def find_edges(
    parts: torch.Tensor, taps: _Taps, start: int, n_times: int, reach: tuple[int, int]
) -> tuple[torch.Tensor, Edge, Edge]:
    """Where, and by how much, filters differ for reading padding in between.

    Parameters
    ----------
    parts : torch.Tensor of shape (n_second, n_taps_2, n_taps)
        From :func:`compose_taps`.
    taps : _Taps
        Of the second convolution.
    start : int
        Input sample that tap 0 meets in output sample 0.
    n_times : int
        Samples of the input.
    reach : tuple of int
        First input sample that no dropped tap of the first output samples meets, and
        first one that a dropped tap of the last output samples meets.

    Returns
    -------
    whole : torch.Tensor of shape (n_second, n_taps)
        Composed filters.
    head, tail : Edge
        At the beginning and at the end.
    """
    places = (taps.head, taps.tail)
    whole, *rows = (taps.sums @ parts).split([1, *map(len, places)], dim=1)
    columns = (
        range(0, min(max(reach[0], 0), n_times)),
        range(max(min(reach[1], n_times), 0), n_times),
    )
    edges = (
        Edge(samples, spread_rows(part, start + samples.start, met), met)
        for samples, part, met in zip(places, rows, columns, strict=True)
    )
    return whole.squeeze(1), *edges


def compose(
    filters: Filters, weight: torch.Tensor, bias: torch.Tensor | None, pad: Pad
) -> Filters:
    """Let a second convolution over time follow.

    Parameters
    ----------
    filters : Filters
        Of the first, normalized; without edges, and with a constant that does not
        depend on time.
    weight : torch.Tensor of shape (n_second, n_first, n_taps_2), float64
        Of the second convolution.
    bias : torch.Tensor of shape (n_second,) or None
        Of the second convolution, float64.
    pad : tuple of int
        Samples of padding of the second, at the left and at the right.

    Returns
    -------
    composed : Filters
        Of both.
    """
    n_between, n_taps_2 = filters.n_out, weight.shape[2]
    parts = compose_taps(filters.whole, weight)
    taps = _taps(n_between, n_taps_2, pad, weight.device)
    # Dropped taps would have met the first convolution's output before its beginning
    # or after its end, which depends on few samples of the input. Not so where the
    # windows are so short that one output sample drops taps on both sides.
    reach = (filters.whole.shape[1] - 1 + filters.first, n_between + filters.first)
    reach = reach if n_between >= n_taps_2 else (filters.n_times, 0)
    start = filters.first - pad[0]
    whole, *edges = find_edges(parts, taps, start, filters.n_times, reach)
    constant = None
    if filters.constant is not None:
        added = torch.einsum("f,gfk->gk", filters.constant.flatten(), weight)
        constant = added @ taps.inside
    if bias is not None:
        constant = bias[:, None] + (0 if constant is None else constant)
    used = tuple(edge for edge in edges if edge.rows.numel())
    return Filters(whole, start, filters.n_times, taps.n_out, constant, used)


def response_to_one(filters: Filters) -> torch.Tensor:
    """Filter a window of ones.

    Parameters
    ----------
    filters : Filters
        Their edges and constants are left out.

    Returns
    -------
    response : torch.Tensor of shape (n_filters, n_out), float64
        1 inside of the window, 0 outside, filtered.
    """
    whole, n_taps = filters.whole, filters.whole.shape[1]
    one = _one(filters.n_times, whole.device)
    return whole @ windows_of(one, n_taps, filters.first, filters.n_out)


@cached_by_size
def _one(n_times: int, device: torch.device) -> torch.Tensor:
    return torch.ones(n_times, dtype=torch.float64, device=device)


def filter_projections(
    x: torch.Tensor, filters: Filters, spatial: torch.Tensor
) -> torch.Tensor:
    """Project the channels, then filter: y_o = L_g s_o + S_o constant_g.

    Parameters
    ----------
    x : torch.Tensor of shape (batch, n_chans, n_times)
        Windows.
    filters : Filters
        Temporal filters.
    spatial : torch.Tensor of shape (n_filters * depth, n_chans)
        Spatial filters, `depth` for each temporal one.

    Returns
    -------
    y : torch.Tensor of shape (batch, n_filters * depth, n_out)
        Filtered projections.
    """
    shape = (len(filters.whole), len(spatial) // len(filters.whole))
    signals = spatial.expand(len(x), *spatial.shape) @ x
    if filters.constant is None:
        constant = x.new_zeros(*shape, 1)
    else:
        total = spatial.sum(dim=1).unflatten(0, shape)
        constant = total[..., None] * filters.constant[:, None].to(x.dtype)
    y = FFTFilter.apply(
        signals.unflatten(1, shape),
        filters.whole.to(x.dtype),
        response_to_one(filters).to(x.dtype),
        constant,
        filters.first,
        tuple(Place(edge.samples, edge.columns) for edge in filters.edges),
        *(edge.rows.to(x.dtype) for edge in filters.edges),
    )
    return y.flatten(1, 2)


def filter_channels(
    x: torch.Tensor, filters: Filters, spatial: torch.Tensor
) -> torch.Tensor:
    """Filter with one kernel over channels and time: the product of both.

    Parameters
    ----------
    x : torch.Tensor of shape (batch, n_chans, n_times)
        Windows.
    filters : Filters
        Temporal filters, without edges.
    spatial : torch.Tensor of shape (n_out_filters, n_filters, n_chans)
        Spatial filters over all temporal ones.

    Returns
    -------
    y : torch.Tensor of shape (batch, n_out_filters, n_out)
        Filtered windows.
    """
    kernel = torch.einsum("ofc,fk->ock", spatial, filters.whole.to(x.dtype))
    n_taps, left = kernel.shape[2], -filters.first
    right = filters.n_out + n_taps - 1 - filters.n_times - left
    if x.device.type == "cpu" and left == right == 0:
        # Means apart: an FFT's rounding errors are those of its largest frequency.
        means = x.mean(dim=-1)
        centred = x - means[..., None]
        y = FFTConvolution.apply(centred, kernel, 1, 0, filters.n_out)
        y = y + (means @ kernel.sum(dim=2).T)[..., None]
    else:
        y = F.conv1d(F.pad(x, (left, right)), kernel)
    if filters.constant is not None:
        y = y + spatial.sum(dim=2) @ filters.constant.to(x.dtype)
    return y
