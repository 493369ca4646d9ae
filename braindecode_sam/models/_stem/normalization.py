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


def normalize_by(
    filters: Filters,
    mean: Tensor,
    variance: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
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


def statistics_of(filters: Filters, moments: Moments) -> tuple[Tensor, Tensor]:
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
        of_rows = rows.flatten(0, 1) @ moments.cached(covariance_block, columns)
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
