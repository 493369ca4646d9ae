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

Batch statistics of u and z come from :mod:`braindecode_sam.models.filter_moments`.
"""

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from scipy.fft import next_fast_len

from braindecode_sam.models.filter_moments import (
    Edge,
    dense_rows,
    filter_statistics,
    shift_rows,
)


def composed_filters(w1, w2, scale):
    """Two temporal convolutions as one, split by the second one's taps.

    Parameters
    ----------
    w1 : torch.Tensor of shape (n_first, n_taps_1)
        First filters.
    w2 : torch.Tensor of shape (n_second, n_first, n_taps_2)
        Second filters.
    scale : torch.Tensor of shape (n_first,)
        Factor a between them.

    Returns
    -------
    partial : torch.Tensor of shape (n_second, n_taps_2 + 1, n_taps_1 + n_taps_2 - 1)
        Entry k is the composition of the second one's taps below k: the whole filter
        is the last, and taps k to l alone are the difference of two entries.
    """
    n_second, _, n_taps_2 = w2.shape
    n_taps = w1.shape[1] + n_taps_2 - 1
    products = torch.einsum("gfk,fl->gkl", w2, scale[:, None] * w1)
    shifted = shift_rows(F.pad(products, (0, n_taps_2 - 1)))[..., :n_taps]
    first = products.new_zeros(n_second, 1, n_taps)
    return torch.cat([first, shifted.cumsum(dim=1)], dim=1)


def padded_taps(n_between, n_taps_2, pad_2, device=None):
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
    low, high : torch.Tensor of shape (n_out,)
        For each output sample the taps from low up to, not with, high.

    Examples
    --------
    >>> low, high = padded_taps(4, 3, (1, 1))
    >>> low.tolist(), high.tolist()
    ([1, 0, 0, 0], [3, 3, 3, 2])
    """
    n_out = n_between + sum(pad_2) - n_taps_2 + 1
    t = torch.arange(n_out, device=device)
    low = (pad_2[0] - t).clamp(0, n_taps_2)
    high = (n_between + pad_2[0] - t).clamp(0, n_taps_2)
    return low, high


def find_edges(partial, low, high, pad_2, start, n_times, reach):
    """Where, and by how much, filters differ for reading padding in between.

    Parameters
    ----------
    partial : torch.Tensor of shape (n_second, n_taps_2 + 1, n_taps)
        From :func:`composed_filters`.
    low, high : torch.Tensor of shape (n_out,)
        From :func:`padded_taps`.
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
    head, tail : Edge
        At the beginning and at the end.
    """
    n_out = len(low)
    head = range(0, min(pad_2[0], n_out))
    tail = range(max(n_out - pad_2[1], head.stop), n_out)
    edges = []
    for samples, keep in ((head, (0, reach[0])), (tail, (reach[1], n_times))):
        part = slice(samples.start, samples.stop)
        taps = partial.index_select(1, high[part]) - partial.index_select(1, low[part])
        dropped = taps - partial[:, -1:]
        rows, columns = dense_rows(dropped, start + samples.start, n_times)
        left = min(max(keep[0], columns.start), columns.stop)
        right = max(min(keep[1], columns.stop), left)
        rows = rows[..., left - columns.start : right - columns.start]
        edges.append(Edge(samples, rows, slice(left, right)))
    return edges


class FilterWithEdges(torch.autograd.Function):
    """Filter signals by way of their spectra, with other filters near both ends.

    ``apply(signals, filters, constant, head, tail, first, columns)`` with

    - signals of shape (batch, n_groups, n_signals, n_times), zero outside;
    - filters of shape (n_groups, n_taps);
    - constant of shape (n_groups, n_signals, n_out), added to every output;
    - head and tail of shape (n_groups, n_rows, n_columns): what is added to the first
      and to the last n_rows output samples, as weights of the input's `columns`, a
      pair of slices;
    - first, at most 0: the sample that tap 0 meets in output sample 0;

    gives ``y[..., t] = constant[..., t] + sum_j filters[:, j] signals[..., first+t+j]``
    and the additions. Written out because torch's own backward of a real FFT is a
    complex one of full length. It saves inputs only, so it can be differentiated twice.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(signals, filters, constant, head, tail, first, columns):
        """Filter."""
        n_out = constant.shape[-1]
        length = _fft_length(signals.shape[-1], n_out, filters, first)
        spectrum = torch.fft.rfft(signals, length)
        spectrum *= _kernel_spectrum(filters, first, length)
        y = torch.fft.irfft(spectrum, length)[..., :n_out] + constant
        n_head, n_tail = head.shape[1], tail.shape[1]
        y[..., :n_head] += _weigh(signals[..., columns[0]], head.mT)
        y[..., n_out - n_tail :] += _weigh(signals[..., columns[1]], tail.mT)
        return y

    @staticmethod
    def setup_context(ctx, inputs, output):
        """Keep the inputs."""
        signals, filters, constant, head, tail, ctx.first, ctx.columns = inputs
        ctx.save_for_backward(signals, filters, head, tail)
        ctx.length = _fft_length(
            signals.shape[-1], constant.shape[-1], filters, ctx.first
        )

    @staticmethod
    def backward(ctx, grad):
        """Correlate."""
        signals, filters, head, tail = ctx.saved_tensors
        n_out, n_tail = grad.shape[-1], tail.shape[1]
        at_head, at_tail = grad[..., : head.shape[1]], grad[..., n_out - n_tail :]
        s_head, s_tail = (signals[..., columns] for columns in ctx.columns)
        spectrum = torch.fft.rfft(grad, ctx.length)
        kernel = _kernel_spectrum(filters, ctx.first, ctx.length)
        back = torch.fft.irfft(spectrum * kernel.conj(), ctx.length)
        back = back[..., : signals.shape[-1]]
        back[..., ctx.columns[0]] += _weigh(at_head, head)
        back[..., ctx.columns[1]] += _weigh(at_tail, tail)
        product = spectrum * torch.fft.rfft(signals, ctx.length).conj()
        lags = torch.fft.irfft(product.sum(dim=0).sum(dim=1), ctx.length)
        taps = _kernel_index(filters, ctx.first, ctx.length)
        grad_head = torch.einsum("bgdt,bgdw->gtw", at_head, s_head)
        grad_tail = torch.einsum("bgdt,bgdw->gtw", at_tail, s_tail)
        return back, lags[:, taps], grad.sum(0), grad_head, grad_tail, None, None


def _weigh(signals, rows):
    return torch.einsum("bgdw,gwt->bgdt", signals, rows)


def _fft_length(n_times, n_out, filters, first):
    """Long enough that what wraps around meets zeros only."""
    overhang = max(-first, filters.shape[1] - 1 + first, 0)
    return next_fast_len(max(n_times, n_out) + overhang, real=True)


def _kernel_index(filters, first, length):
    return (-first - torch.arange(filters.shape[1], device=filters.device)) % length


def _kernel_spectrum(filters, first, length):
    kernel = filters.new_zeros(len(filters), length)
    index = _kernel_index(filters, first, length)
    return torch.fft.rfft(kernel.index_copy(1, index, filters))[:, None]


def two_convolutions(x, first, second, spatial, moments):
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
    partial = composed_filters(w1, w2, a)
    low, high = padded_taps(n_between, n_taps_2, pad_2, x.device)
    start, n_out = -pad_1[0] - pad_2[0], len(low)
    zeta = F.pad(torch.einsum("f,gfk->gk", b, w2).cumsum(dim=1), (1, 0))
    zeta = zeta.index_select(1, high) - zeta.index_select(1, low)
    # Dropped taps would have met the first convolution's output before its beginning
    # or after its end, which depends on few samples of the input. Not so where the
    # windows are so short that one output sample drops taps on both sides.
    reach = (w1.shape[1] - 1 - pad_1[0], n_between - pad_1[0])
    reach = reach if n_between >= n_taps_2 else (n_times, 0)
    edges = find_edges(partial, low, high, pad_2, start, n_times, reach)
    whole = partial[:, -1]
    scale, shift = normalize_2(
        n_signals * n_out,
        lambda: filter_statistics(moments(n_lags), whole, start, zeta, edges),
    )
    head, tail = (scale[:, None, None] * edge.rows for edge in edges)
    constant = scale[:, None] * zeta + shift[:, None]
    signals, total = _project(x, spatial, len(w2))
    y = FilterWithEdges.apply(
        signals,
        scale[:, None] * whole,
        total[..., None] * constant[:, None],
        head,
        tail,
        start,
        tuple(edge.columns for edge in edges),
    )
    return y.flatten(1, 2)


def one_convolution(x, first, spatial, moments):
    """conv(time) -> norm -> depthwise conv(channels).

    Parameters
    ----------
    x : torch.Tensor of shape (batch, n_chans, n_times)
        Windows.
    first : tuple of (w1, normalize, pad)
        As for :func:`two_convolutions`.
    spatial : torch.Tensor of shape (n_first * depth, n_chans)
        Spatial filters.
    moments : callable
        As for :func:`two_convolutions`.

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
    signals, total = _project(x, spatial, len(w1))
    constant = (total * shift[:, None])[..., None].expand(*total.shape, n_out)
    empty = w1.new_zeros(len(w1), 0, 0)
    columns = (slice(0, 0), slice(0, 0))
    filters = scale[:, None] * w1
    y = FilterWithEdges.apply(
        signals, filters, constant, empty, empty, -pad[0], columns
    )
    return y.flatten(1, 2)


def _project(x, spatial, n_groups):
    """Apply the spatial filters; sum each of them over the channels."""
    signals = torch.bmm(spatial.expand(len(x), *spatial.shape), x)
    depth = len(spatial) // n_groups
    total = spatial.sum(dim=1).unflatten(0, (n_groups, depth))
    return signals.unflatten(1, (n_groups, depth)), total
