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
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from braindecode_sam.models._stem.linear import Filters
from braindecode_sam.models._stem.moments import (
    Moments,
    covariance_block,
    cross_covariance,
    diagonal_sums,
    unfolded_mean,
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
        Scale and shift of the normalized outputs, float64.
    eps : float
        Added to the variance.

    Returns
    -------
    normalized : Filters
        Filters of the normalized outputs.
    mean, variance : torch.Tensor of shape (n_filters,)
        Statistics of the outputs, without gradients. The variance is that of the
        population.
    """
    rows = tuple(edge.rows for edge in filters.edges)
    inputs = (filters.interior, filters.constant, weight, bias, *rows)
    interior, constant, mean, variance, *rows = BatchNormalization.apply(
        _LocalMoments(filters, moments), eps, *inputs
    )
    return _replaced(filters, interior, constant, *rows), mean, variance


def normalize_by(
    filters: Filters,
    mean: Tensor,
    variance: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
) -> Filters:
    """Normalize the outputs of filters by given statistics.

    Parameters
    ----------
    filters : Filters
        Filters.
    mean, variance : torch.Tensor of shape (n_filters,), float64
        Statistics of the outputs.
    weight, bias, eps
        As for :func:`normalize`.

    Returns
    -------
    normalized : Filters
        Filters of the normalized outputs.
    """
    rows = [edge.rows for edge in filters.edges]
    _, _, *outputs = _scaled(
        mean, variance, eps, filters.interior, filters.constant, weight, bias, rows
    )
    return _replaced(filters, *outputs)


def _replaced(
    filters: Filters, interior: Tensor, constant: Tensor, *rows: Tensor
) -> Filters:
    edges = tuple(
        edge._replace(rows=scaled)
        for edge, scaled in zip(filters.edges, rows, strict=True)
    )
    return filters._replace(interior=interior, constant=constant, edges=edges)


class _LocalMoments:
    """Moments of the windows at the samples that filters read.

    Parameters
    ----------
    filters : Filters
        Filters. Their values are not read, only their positions.
    moments : Moments
        Of the windows.
    """

    def __init__(self, filters: Filters, moments: Moments) -> None:
        n_taps, first = filters.interior.shape[1], filters.first
        self.n_out = filters.n_out
        self.mean = moments.cached(unfolded_mean, n_taps, first, self.n_out)
        self.sums = moments.cached(diagonal_sums, n_taps, first, self.n_out)
        self.edges = [
            _EdgeMoments(
                slice(edge.samples.start, edge.samples.stop),
                moments.mean[edge.columns.start : edge.columns.stop],
                moments.cached(covariance_block, edge.columns),
                moments.cached(
                    cross_covariance, edge.columns, n_taps, first, edge.samples
                ),
            )
            for edge in filters.edges
        ]


class _EdgeMoments(NamedTuple):
    """Moments of the windows at the samples that one edge reads."""

    samples: slice
    mean: Tensor  # (n_columns,)
    covariance: Tensor  # (n_columns, n_columns)
    # With the samples that the interior filter reads: (n_taps, n_samples * n_columns).
    cross_covariance: Tensor


class _Statistics(NamedTuple):
    """Statistics of the outputs and the products that their gradients need."""

    mean: Tensor  # (n_filters,)
    variance: Tensor  # (n_filters,)
    means: Tensor  # of each output sample: (n_filters, n_out)
    products: Tensor  # M h: (n_filters, n_taps)
    row_products: list[Tensor]  # R (h + d_t), shaped as the rows


def _statistics(
    local: _LocalMoments,
    interior: Tensor,
    constant: Tensor | None,
    rows: Sequence[Tensor],
) -> _Statistics:
    means = interior @ local.mean
    if constant is not None:
        means = means + constant
    products = interior @ local.sums
    squares = (products * interior).sum(dim=1)
    row_products = []
    for edge, row in zip(local.edges, rows, strict=True):
        of_row = (row.flatten(0, 1) @ edge.covariance).view_as(row)
        of_interior = (interior @ edge.cross_covariance).view_as(row)
        both = of_row + of_interior
        squares = squares + (row * (both + of_interior)).sum(dim=(1, 2))
        means[:, edge.samples] += row @ edge.mean
        row_products.append(both)
    variance, mean = torch.var_mean(means, dim=1, correction=0)
    variance = torch.add(variance, squares, alpha=1 / local.n_out)
    return _Statistics(mean, variance, means, products, row_products)


def _scaled(
    mean: Tensor,
    variance: Tensor,
    eps: float,
    interior: Tensor,
    constant: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    rows: Sequence[Tensor],
) -> tuple[Tensor, ...]:
    """Return scale and gain, and the filters of the normalized outputs."""
    scale = (variance + eps).rsqrt()
    gain = scale if weight is None else scale * weight
    column, level = gain[:, None], mean[:, None]
    centered = -level if constant is None else constant - level
    shift = centered * column if bias is None else bias[:, None] + centered * column
    rows = [column[..., None] * row for row in rows]
    return scale, gain, column * interior, shift, *rows


class BatchNormalization(torch.autograd.Function):
    """Scale and shift filters so that their outputs are normalized.

    ``apply(local, eps, interior, constant, weight, bias, *rows)`` returns the scaled
    interior and constant, mean and variance of the outputs, and the scaled rows. The
    backward pass is explicit because torch's would launch twice as many kernels. It can
    be differentiated twice.
    """

    @staticmethod
    def forward(
        ctx: Any,
        local: _LocalMoments,
        eps: float,
        interior: Tensor,
        constant: Tensor | None,
        weight: Tensor | None,
        bias: Tensor | None,
        *rows: Tensor,
    ) -> tuple[Tensor, ...]:
        """Normalize."""
        statistics = _statistics(local, interior, constant, rows)
        mean, variance = statistics.mean, statistics.variance
        outputs = _scaled(mean, variance, eps, interior, constant, weight, bias, rows)
        scale, gain, interior_out, constant_out, *rows_out = outputs
        ctx.save_for_backward(interior, constant, weight, bias, *rows)
        ctx.local, ctx.eps, ctx.statistics = local, eps, statistics
        ctx.scale, ctx.gain = scale, gain
        ctx.mark_non_differentiable(mean, variance)
        return interior_out, constant_out, mean, variance, *rows_out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Differentiate."""
        inputs = ctx.saved_tensors
        grad_interior, grad_constant, _, _, *grad_rows = grads
        grads = (grad_interior, grad_constant, *grad_rows)
        if torch.is_grad_enabled():
            return None, None, *_differentiate_again(ctx, inputs, grads)
        interior, constant, weight, bias, *rows = inputs
        statistics, scale, gain = ctx.statistics, ctx.scale, ctx.gain
        column, share = gain[:, None], -1 / ctx.local.n_out

        # Gradients of gain and shift; the outputs are gain * inputs + shift.
        of_shift = grad_constant.sum(dim=1)
        of_gain = torch.addcmul(
            (grad_interior * interior).sum(dim=1), of_shift, statistics.mean, value=-1
        )
        if constant is not None:
            of_gain = of_gain + (grad_constant * constant).sum(dim=1)
        for grad, row in zip(grad_rows, rows, strict=True):
            of_gain = of_gain + (grad * row).sum(dim=(1, 2))

        # Gradients of the variance and of the mean in each output sample, both divided
        # by share.
        of_variance = (of_gain * gain * scale.square())[:, None]
        means = statistics.means - statistics.mean[:, None]
        of_means = torch.addcmul((gain * of_shift)[:, None], of_variance, means)
        of_interior = torch.addcmul(
            column * grad_interior, of_variance, statistics.products, value=share
        )
        of_interior = torch.addmm(of_interior, of_means, ctx.local.mean.mT, alpha=share)
        of_rows = []
        row_products = statistics.row_products
        parts = zip(ctx.local.edges, rows, grad_rows, row_products, strict=True)
        for edge, row, grad, product in parts:
            at = of_variance[..., None]
            of_interior = torch.addmm(
                of_interior,
                (at * row).reshape(len(row), -1),
                edge.cross_covariance.mT,
                alpha=share,
            )
            of_row = column[..., None] * grad
            of_row = torch.addcmul(of_row, at, product, value=share)
            of_means_here = of_means[:, edge.samples, None]
            of_rows.append(torch.addcmul(of_row, of_means_here, edge.mean, value=share))
        of_constant = None
        if constant is not None:
            is_one = constant.shape[1] == 1
            of_all = of_means.sum(dim=1, keepdim=True) if is_one else of_means
            of_constant = torch.add(column * grad_constant, of_all, alpha=share)
        of_weight = None if weight is None else of_gain * scale
        of_bias = None if bias is None else of_shift
        return None, None, of_interior, of_constant, of_weight, of_bias, *of_rows


def _differentiate_again(
    ctx: Any, inputs: Sequence[Any], grads: Sequence[Tensor]
) -> list[Tensor | None]:
    interior, constant, weight, bias, *rows = inputs
    with torch.enable_grad():
        statistics = _statistics(ctx.local, interior, constant, rows)
        _, _, *outputs = _scaled(
            statistics.mean,
            statistics.variance,
            ctx.eps,
            interior,
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
