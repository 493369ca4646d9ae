r"""The linear stem of EEGNet-like models, exactly, without its large tensors.

EEGNet begins with conv(time) -> BN -> depthwise conv(channels), EEGNeX with
conv(time) -> BN -> conv(time) -> BN -> depthwise conv(channels). There is no
nonlinearity in between. Temporal filters act alike on every channel and the spatial
filter alike on every sample, so they commute: project the channels first, then filter
the few projections, and never hold a (batch, filter, channel, time) tensor.

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

Batch statistics of u and z come from :mod:`braindecode_sam.models._stem.moments`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention

from braindecode_sam.models._stem.batch_norm import Normalize
from braindecode_sam.models._stem.fft_filter import FFTFilter
from braindecode_sam.models._stem.moments import (
    Edge,
    Moments,
    filter_statistics,
    windows_of,
)

Pad = tuple[int, int]  # samples at the left and at the right
Layer = tuple[torch.Tensor, Normalize, Pad]  # temporal filters and what normalizes


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
    left = min(max(-low, 0), width)
    flat = taps[..., met.start : met.stop]
    flat = F.pad(flat, (left, width - left - len(met))).flatten(1)
    # Read with rows that are one sample shorter, each row begins one sample earlier.
    flat = flat[:, max(n_rows - 1, 0) :][:, : n_rows * (width - 1)]
    return flat.unflatten(1, (n_rows, width - 1))[..., : len(columns)]


def find_edges(
    parts: torch.Tensor,
    inside: torch.Tensor,
    pad_2: Pad,
    start: int,
    n_times: int,
    reach: tuple[int, int],
) -> tuple[torch.Tensor, Edge, Edge]:
    """Where, and by how much, filters differ for reading padding in between.

    Parameters
    ----------
    parts : torch.Tensor of shape (n_second, n_taps_2, n_taps)
        From :func:`compose_taps`.
    inside : torch.Tensor of shape (n_out, n_taps_2)
        From :func:`taps_inside`.
    pad_2 : tuple of int
        The second convolution's padding, left and right.
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
    n_out = len(inside)
    head = range(0, min(pad_2[0], n_out))
    tail = range(max(n_out - pad_2[1], head.stop), n_out)
    dropped = inside.to(parts.dtype) - 1
    chosen = torch.cat(
        [torch.ones_like(dropped[:1])]
        + [dropped[samples.start : samples.stop] for samples in (head, tail)]
    )
    whole, *taps = (chosen @ parts).split([1, len(head), len(tail)], dim=1)
    columns = (
        range(0, min(max(reach[0], 0), n_times)),
        range(max(min(reach[1], n_times), 0), n_times),
    )
    edges = (
        Edge(samples, spread_rows(part, start + samples.start, met), met)
        for samples, part, met in zip((head, tail), taps, columns, strict=True)
    )
    return whole.squeeze(1), *edges


def eegnex_stem(
    x: torch.Tensor,
    first: Layer,
    second: Layer,
    spatial: torch.Tensor,
    moments: Callable[[int], Moments],
) -> torch.Tensor:
    """conv(time) -> norm -> conv(time) -> norm -> depthwise conv(channels).

    Parameters
    ----------
    x : torch.Tensor of shape (batch, n_chans, n_times)
        Windows.
    first : tuple of (w1, normalize, pad)
        Filters of shape (n_first, n_taps_1); a function that gets the number of
        values and a function giving their mean and variance, each of shape
        (n_first,), and returns scale and shift; padding left and right.
    second : tuple of (w2, normalize, pad)
        The same, with filters of shape (n_second, n_first, n_taps_2).
    spatial : torch.Tensor of shape (n_second * depth, n_chans)
        Spatial filters, `depth` for each of the second ones.
    moments : callable
        Gets the number of lags, returns the :class:`Moments` of x. Called only where
        a normalization uses batch statistics.

    Returns
    -------
    y : torch.Tensor of shape (batch, n_second * depth, n_out)
        What the three convolutions give.
    """
    w1, normalize_1, pad_1 = first
    w2, normalize_2, pad_2 = second
    n_times, n_taps_2 = x.shape[-1], w2.shape[2]
    n_lags = min(w1.shape[1] + n_taps_2 - 1, n_times)
    n_between = n_times + sum(pad_1) - w1.shape[1] + 1
    n_signals = x.shape[0] * x.shape[1]
    none = w1.new_zeros(len(w1), n_between)
    a, b = normalize_1(
        n_signals * n_between,
        lambda: filter_statistics(moments(n_lags), w1, -pad_1[0], none),
    )
    parts = compose_taps(a[:, None] * w1.double(), w2.double())
    inside = taps_inside(n_between, n_taps_2, pad_2, x.device)
    # Dropped taps would have met the first convolution's output before its beginning
    # or after its end, which depends on few samples of the input. Not so where the
    # windows are so short that one output sample drops taps on both sides.
    reach = (w1.shape[1] - 1 - pad_1[0], n_between - pad_1[0])
    reach = reach if n_between >= n_taps_2 else (n_times, 0)
    start, n_out = -pad_1[0] - pad_2[0], len(inside)
    whole, *edges = find_edges(parts, inside, pad_2, start, n_times, reach)
    zeta = torch.einsum("f,gfk->gk", b, w2.double()) @ inside.double().T
    scale, shift = normalize_2(
        n_signals * n_out,
        lambda: filter_statistics(moments(n_lags), whole, start, zeta, edges),
    )
    return filter_projections(x, spatial, whole, start, edges, zeta, scale, shift)


def response_to_one(
    whole: torch.Tensor, edges: Sequence[Edge], first: int, n_times: int, n_out: int
) -> torch.Tensor:
    """Filter a window of ones.

    Parameters
    ----------
    whole : torch.Tensor of shape (n_filters, n_taps)
        Filters, of all output samples but those in `edges`.
    edges : sequence of Edge
        Output samples whose filters differ.
    first : int
        Input sample that tap 0 meets in output sample 0; may be negative.
    n_times, n_out : int
        Samples of the input and of the output.

    Returns
    -------
    response : torch.Tensor of shape (n_filters, n_out), float64
        1 inside of the window, 0 outside, filtered.
    """
    one = whole.new_ones(n_times, dtype=torch.float64)
    response = whole.double() @ windows_of(one, whole.shape[1], first, n_out)
    for edge in edges:
        response = response + edge.spread(edge.rows.double().sum(dim=2), n_out)
    return response


def eegnet_stem(
    x: torch.Tensor,
    first: Layer,
    spatial: torch.Tensor,
    moments: Callable[[int], Moments],
) -> torch.Tensor:
    """conv(time) -> norm -> depthwise conv(channels).

    Parameters
    ----------
    x : torch.Tensor of shape (batch, n_chans, n_times)
        Windows.
    first : tuple of (w1, normalize, pad)
        As for :func:`eegnex_stem`.
    spatial : torch.Tensor of shape (n_first * depth, n_chans)
        Spatial filters.
    moments : callable
        As for :func:`eegnex_stem`.

    Returns
    -------
    y : torch.Tensor of shape (batch, n_first * depth, n_out)
        What the two convolutions give.
    """
    w1, normalize, pad = first
    n_taps, n_times = w1.shape[1], x.shape[-1]
    n_out = n_times + sum(pad) - n_taps + 1
    n_lags = min(n_taps, n_times)
    none = w1.new_zeros(len(w1), n_out)
    scale, shift = normalize(
        x.shape[0] * x.shape[1] * n_out,
        lambda: filter_statistics(moments(n_lags), w1, -pad[0], none),
    )
    no_edge = Edge(range(0), w1.new_zeros(len(w1), 0, 0), range(0))
    edges = (no_edge, no_edge)
    return filter_projections(x, spatial, w1, -pad[0], edges, none, scale, shift)


def filter_projections(
    x: torch.Tensor,
    spatial: torch.Tensor,
    whole: torch.Tensor,
    first: int,
    edges: Sequence[Edge],
    zeta: torch.Tensor,
    scale: torch.Tensor,
    shift: torch.Tensor,
) -> torch.Tensor:
    """Project the windows, then filter: y_o = A_g (L_g s_o + S_o zeta_g) + B_g S_o.

    Parameters
    ----------
    x : torch.Tensor of shape (batch, n_chans, n_times)
        Windows.
    spatial : torch.Tensor of shape (n_filters * depth, n_chans)
        Spatial filters.
    whole : torch.Tensor of shape (n_filters, n_taps)
        Temporal filters, of all output samples but those in `edges`.
    first : int
        Input sample that tap 0 meets in output sample 0; may be negative.
    edges : tuple of Edge
        At the beginning and at the end.
    zeta : torch.Tensor of shape (n_filters, n_out)
        Added to each filter's output.
    scale, shift : torch.Tensor of shape (n_filters,), float64
        A and B.

    Returns
    -------
    y : torch.Tensor of shape (batch, n_filters * depth, n_out)
        Filtered projections.

    Notes
    -----
    What all samples have in common is taken from the projections, and what the filters
    make of it is added in float64, where a large offset leaves enough digits.
    """
    offset = x.mean().double()
    n_times, n_out = x.shape[-1], zeta.shape[1]
    zeta = zeta + offset * response_to_one(whole, edges, first, n_times, n_out)
    constant = (scale[:, None] * zeta + shift[:, None]).to(x.dtype)
    signals, total = project(x, spatial, len(whole), offset)
    y = FFTFilter.apply(
        signals,
        (scale[:, None] * whole).to(x.dtype),
        total[..., None] * constant[:, None],
        first,
        *((scale[:, None, None] * edge.rows).to(x.dtype) for edge in edges),
        *(edge.columns for edge in edges),
    )
    return y.flatten(1, 2)


def project(
    x: torch.Tensor, spatial: torch.Tensor, n_groups: int, offset: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Apply the spatial filters to windows without their common offset.

    Parameters
    ----------
    x : torch.Tensor of shape (batch, n_chans, n_times)
        Windows.
    spatial : torch.Tensor of shape (n_groups * depth, n_chans)
        Spatial filters.
    n_groups : int
        Number of temporal filters that they belong to.
    offset : torch.Tensor of shape ()
        Taken from all samples; in the unit of the windows.

    Returns
    -------
    signals : torch.Tensor of shape (batch, n_groups, depth, n_times)
        s_o of the windows less `offset`.
    total : torch.Tensor of shape (n_groups, depth)
        S_o.
    """
    total = spatial.sum(dim=1)
    less = (-offset * total.double()).to(x.dtype)[:, None]
    signals = torch.baddbmm(less, spatial.expand(len(x), *spatial.shape), x)
    shape = (n_groups, len(spatial) // n_groups)
    return signals.unflatten(1, shape), total.unflatten(0, shape)
