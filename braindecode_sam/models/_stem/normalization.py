r"""Batch normalization of filtered windows, as another scale and shift of the filters.

With the windows' mean over batch and channels m[t], and their covariance R[s, t] about
it, an output :math:`z[t] = e_t \cdot x + c_t` of filter e_t has the mean and variance
over batch, channels and time

.. math::
    \mu = \frac{1}{T} \sum_t (e_t \cdot m + c_t), \qquad
    \sigma^2 = \frac{1}{T} \sum_t e_t^T R e_t + \mathrm{var}_t(e_t \cdot m + c_t) .

Where all e_t are one filter h, the first sum is h^T M h with M[j, k] a sum along a
diagonal of R. With the filters h + d_t near the ends, it is that, plus, for the few t
with a d_t of few samples, :math:`2 d_t^T R h + d_t^T R d_t`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from braindecode_sam.models._stem.linear import Filters
from braindecode_sam.models._stem.moments import (
    Moments,
    covariance_block,
    covariance_met,
    diagonal_sums,
    mean_met,
)

Tensor = torch.Tensor


def normalize(
    filters: Filters,
    moments: Moments,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
) -> tuple[Filters, Tensor, Tensor]:
    """Normalize the outputs of filters over batch, channels and time.

    Parameters
    ----------
    filters : Filters
        Filters.
    moments : Moments
        Of the windows.
    weight, bias : torch.Tensor of shape (n_filters,) or None
        Scale and shift of what is normalized, float64.
    eps : float
        Added to the variance.

    Returns
    -------
    normalized : Filters
        Filters of the normalized outputs.
    mean, variance : torch.Tensor of shape (n_filters,)
        Of the outputs; the variance is the population's. Without gradients.
    """
    rows = tuple(edge.rows for edge in filters.edges)
    inputs = (filters.whole, filters.constant, weight, bias, *rows)
    whole, constant, mean, variance, *rows = BatchNormalization.apply(
        _Way(filters, moments), eps, *inputs
    )
    return _replaced(filters, whole, constant, *rows), mean, variance


def normalize_by(
    filters: Filters,
    mean: Tensor,
    variance: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
) -> Filters:
    """Normalize the outputs of filters by statistics that are known.

    Parameters
    ----------
    filters : Filters
        Filters.
    mean, variance : torch.Tensor of shape (n_filters,), float64
        Of the outputs.
    weight, bias, eps
        As for :func:`normalize`.

    Returns
    -------
    normalized : Filters
        Filters of the normalized outputs.
    """
    rows = [edge.rows for edge in filters.edges]
    _, _, *outputs = _scaled(
        mean, variance, eps, filters.whole, filters.constant, weight, bias, rows
    )
    return _replaced(filters, *outputs)


def _replaced(
    filters: Filters, whole: Tensor, constant: Tensor, *rows: Tensor
) -> Filters:
    edges = tuple(
        edge._replace(rows=scaled)
        for edge, scaled in zip(filters.edges, rows, strict=True)
    )
    return filters._replace(whole=whole, constant=constant, edges=edges)


class _Way:
    """What filters meet on their way over the windows.

    Parameters
    ----------
    filters : Filters
        Only where they are is read, not their values.
    moments : Moments
        Of the windows.
    """

    def __init__(self, filters: Filters, moments: Moments) -> None:
        n_taps, first, self.n_out = filters.whole.shape[1], filters.first, filters.n_out
        self.mean = moments.kept(mean_met, n_taps, first, self.n_out)
        self.sums = moments.kept(diagonal_sums, n_taps, first, self.n_out)
        self.ends = [
            _End(
                slice(edge.samples.start, edge.samples.stop),
                moments.mean[edge.columns.start : edge.columns.stop],
                moments.kept(covariance_block, edge.columns),
                moments.kept(covariance_met, edge.columns, n_taps, first, edge.samples),
            )
            for edge in filters.edges
        ]


class _End(NamedTuple):
    """What the additions near one end of the windows meet."""

    samples: slice
    mean: Tensor  # (n_columns,)
    covariance: Tensor  # (n_columns, n_columns)
    covariance_met: (
        Tensor  # with what the filters meet: (n_taps, n_samples * n_columns)
    )


class _Statistics(NamedTuple):
    """What the outputs' statistics are made of."""

    mean: Tensor  # (n_filters,)
    variance: Tensor  # (n_filters,)
    means: Tensor  # of each output sample: (n_filters, n_out)
    met: Tensor  # M h: (n_filters, n_taps)
    rows_met: list[Tensor]  # R (h + d_t), in the shape of the rows


def _statistics(
    way: _Way, whole: Tensor, constant: Tensor | None, rows: Sequence[Tensor]
) -> _Statistics:
    means = whole @ way.mean
    if constant is not None:
        means = means + constant
    met = whole @ way.sums
    squares = (met * whole).sum(dim=1)
    rows_met = []
    for end, row in zip(way.ends, rows, strict=True):
        own = (row.flatten(0, 1) @ end.covariance).view_as(row)
        of_whole = (whole @ end.covariance_met).view_as(row)
        both = own + of_whole
        squares = squares + (row * (both + of_whole)).sum(dim=(1, 2))
        means[:, end.samples] += row @ end.mean
        rows_met.append(both)
    variance, mean = torch.var_mean(means, dim=1, correction=0)
    variance = torch.add(variance, squares, alpha=1 / way.n_out)
    return _Statistics(mean, variance, means, met, rows_met)


def _scaled(
    mean: Tensor,
    variance: Tensor,
    eps: float,
    whole: Tensor,
    constant: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    rows: Sequence[Tensor],
) -> tuple[Tensor, ...]:
    """Give scale and gain, and the filters that give the normalized outputs."""
    scale = (variance + eps).rsqrt()
    gain = scale if weight is None else scale * weight
    column, level = gain[:, None], mean[:, None]
    centred = -level if constant is None else constant - level
    shift = centred * column if bias is None else bias[:, None] + centred * column
    rows = [column[..., None] * row for row in rows]
    return scale, gain, column * whole, shift, *rows


class BatchNormalization(torch.autograd.Function):
    """Scale and shift filters so that their outputs are normalized.

    ``apply(way, eps, whole, constant, weight, bias, *rows)`` gives whole, constant,
    mean and variance of the outputs, and the rows. Written out because torch's own
    backward would launch twice as many kernels. It can be differentiated twice.
    """

    @staticmethod
    def forward(
        ctx: Any,
        way: _Way,
        eps: float,
        whole: Tensor,
        constant: Tensor | None,
        weight: Tensor | None,
        bias: Tensor | None,
        *rows: Tensor,
    ) -> tuple[Tensor, ...]:
        """Normalize."""
        statistics = _statistics(way, whole, constant, rows)
        mean, variance = statistics.mean, statistics.variance
        outputs = _scaled(mean, variance, eps, whole, constant, weight, bias, rows)
        scale, gain, whole_out, constant_out, *rows_out = outputs
        ctx.save_for_backward(whole, constant, weight, bias, *rows)
        ctx.way, ctx.eps, ctx.statistics = way, eps, statistics
        ctx.scale, ctx.gain = scale, gain
        ctx.mark_non_differentiable(mean, variance)
        return whole_out, constant_out, mean, variance, *rows_out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Differentiate."""
        inputs = ctx.saved_tensors
        grad_whole, grad_constant, _, _, *grad_rows = grads
        grads = (grad_whole, grad_constant, *grad_rows)
        if torch.is_grad_enabled():
            return None, None, *_differentiate_again(ctx, inputs, grads)
        whole, constant, weight, bias, *rows = inputs
        statistics, scale, gain = ctx.statistics, ctx.scale, ctx.gain
        column, share = gain[:, None], -1 / ctx.way.n_out

        # Of gain and shift, where the outputs are gain * what came + shift.
        of_shift = grad_constant.sum(dim=1)
        of_gain = torch.addcmul(
            (grad_whole * whole).sum(dim=1), of_shift, statistics.mean, value=-1
        )
        if constant is not None:
            of_gain = of_gain + (grad_constant * constant).sum(dim=1)
        for grad, row in zip(grad_rows, rows, strict=True):
            of_gain = of_gain + (grad * row).sum(dim=(1, 2))

        # Of the variance and, in each output sample, of the mean; both times 1 / share.
        of_variance = (of_gain * gain * scale.square())[:, None]
        means = statistics.means - statistics.mean[:, None]
        of_means = torch.addcmul((gain * of_shift)[:, None], of_variance, means)
        of_whole = torch.addcmul(
            column * grad_whole, of_variance, statistics.met, value=share
        )
        of_whole = torch.addmm(of_whole, of_means, ctx.way.mean.mT, alpha=share)
        of_rows = []
        parts = zip(ctx.way.ends, rows, grad_rows, statistics.rows_met, strict=True)
        for end, row, grad, met in parts:
            at = of_variance[..., None]
            of_whole = torch.addmm(
                of_whole,
                (at * row).reshape(len(row), -1),
                end.covariance_met.mT,
                alpha=share,
            )
            of_row = torch.addcmul(column[..., None] * grad, at, met, value=share)
            of_means_here = of_means[:, end.samples, None]
            of_rows.append(torch.addcmul(of_row, of_means_here, end.mean, value=share))
        of_constant = None
        if constant is not None:
            is_one = constant.shape[1] == 1
            of_all = of_means.sum(dim=1, keepdim=True) if is_one else of_means
            of_constant = torch.add(column * grad_constant, of_all, alpha=share)
        of_weight = None if weight is None else of_gain * scale
        of_bias = None if bias is None else of_shift
        return None, None, of_whole, of_constant, of_weight, of_bias, *of_rows


def _differentiate_again(
    ctx: Any, inputs: Sequence[Any], grads: Sequence[Tensor]
) -> list[Tensor | None]:
    whole, constant, weight, bias, *rows = inputs
    with torch.enable_grad():
        statistics = _statistics(ctx.way, whole, constant, rows)
        _, _, *outputs = _scaled(
            statistics.mean,
            statistics.variance,
            ctx.eps,
            whole,
            constant,
            weight,
            bias,
            rows,
        )
        needed = [t for t in inputs if t is not None and t.requires_grad]
        found = torch.autograd.grad(
            outputs, needed, grads, create_graph=True, allow_unused=True
        )
    known = {id(t): gradient for t, gradient in zip(needed, found, strict=True)}
    return [known.get(id(t)) for t in inputs]
