"""Base of the variants that combine the clean and the perturbed gradient."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from braindecode_sam.optim._flat import (
    FlatGroup,
    FlatGroups,
    Tensors,
    dense_gradient,
    flat_groups,
    gather,
    with_gradient,
)
from braindecode_sam.optim.sam import SAM

# Factor of a vector. It is a tensor if it depends on values on a device.
Factor = float | Tensor


class TwoGradientSAM(SAM):
    """A SAM that keeps a copy of the clean gradient during the perturbed pass.

    A variant overrides ``_combine``. What it keeps from step to step is in ``state``,
    together with the state of the base optimizer.
    """

    def _reset_transient_state(self) -> None:
        super()._reset_transient_state()
        self._all = FlatGroups()
        self._both: list[FlatGroup] = []
        self._reserved: dict[Tensor, Tensor] = {}

    def _ascend(self, groups: Sequence[FlatGroup]) -> None:
        self._update_all()
        for group in self._all.groups:
            group.save_gradients()
        super()._ascend(groups)

    def _update_all(self) -> None:
        self._all.update(
            [(group, with_gradient(group["params"])) for group in self.param_groups]
        )

    def _combine_gradients(self) -> None:
        if self._has_ascended:
            had = {p for group in self._all.groups for p in group.params}
            late = [
                new
                for group in self.param_groups
                for new in flat_groups(group, with_gradient(_others(group, had)))
            ]
            # A gradient that only one of the passes has counts as zero in the other.
            self._both = [*self._all.groups, *late]
            if self._both:
                with dense_gradients(self._both):
                    self._combine(self._both)

    def _combine(self, groups: Sequence[FlatGroup]) -> None:
        """Replace the perturbed gradients, in place, by those to step along.

        Parameters
        ----------
        groups : sequence of FlatGroup
            All parameters with a gradient, perturbed or not. The clean gradients are in
            ``clean``, which may be overwritten. The perturbed ones are in
            ``gradients()``.
        """
        raise NotImplementedError

    def _known(self, name: str, group: FlatGroup) -> Tensors:
        """Return the stored tensors of a group, with zeros for missing ones."""
        found = [self.state.get(p, {}).get(name) for p in group.params]
        pairs = zip(found, group.params, strict=True)
        return group.plain([torch.zeros_like(p) if v is None else v for v, p in pairs])

    def _reserve(self, name: str, groups: Sequence[FlatGroup]) -> None:
        """Allocate missing tensors while the step can still be rolled back."""
        params = [p for group in groups for p in group.params]
        self._reserved = {
            p: torch.zeros_like(p) for p in params if name not in self.state.get(p, {})
        }

    def _remembered(self, name: str, group: FlatGroup) -> Tensors:
        """Return the stored tensors of a group, to be changed in place.

        To be called after the base optimizer's step, since most base optimizers treat a
        non-empty state as initialized.
        """
        for p in group.params:
            if p in self._reserved:
                self.state[p][name] = self._reserved.pop(p)
        return self._known(name, group)


def _others(group: Any, params: set[Tensor]) -> list[Tensor]:
    return [p for p in group["params"] if p not in params]


@contextlib.contextmanager
def dense_gradients(groups: Sequence[FlatGroup]) -> Iterator[None]:
    """Give every parameter a dense gradient that can be changed in place.

    At the end, gradients that were sparse are made sparse again, since SparseAdam
    accepts no others.
    """
    sparse = []
    for group in groups:
        for p in group.params:
            if p.grad is not None and p.grad.is_sparse:
                sparse.append((p, p.grad.sparse_dim()))
            p.grad = dense_gradient(p)
    yield
    for p, n_dims in sparse:
        p.grad = dense_gradient(p).to_sparse(n_dims)


def clean_gradients(groups: Sequence[FlatGroup]) -> list[Tensors]:
    """Return the clean gradients of each group."""
    return [group.clean for group in groups]


def gradients(groups: Sequence[FlatGroup]) -> list[Tensors]:
    """Return the current gradients of each group."""
    return [group.gradients() for group in groups]


def dot(
    groups: Sequence[FlatGroup], first: Sequence[Tensors], second: Sequence[Tensors]
) -> Tensor:
    """Return the inner product of two vectors, a scalar on the first group's device."""
    parts = zip(groups, first, second, strict=True)
    return torch.stack(gather([group.inner(a, b) for group, a, b in parts])).sum()


def quotient(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Divide scalars, with the result 0 where the denominator is 0."""
    safe = torch.where(denominator == 0, 1, denominator)
    return torch.where(denominator == 0, 0, numerator / safe)


def combine(
    group: FlatGroup, factor: Factor, clean_factor: Factor, valid: Tensor
) -> None:
    """Set the gradients to ``factor * gradients + clean_factor * clean`` if `valid`.

    Parameters
    ----------
    group : FlatGroup
        Its gradients are changed in place, and left unchanged if not valid: the base
        optimizer handles non-finite gradients as it does without SAM. Its clean
        gradients are overwritten.
    factor, clean_factor : float or torch.Tensor
        Scalars, on any device.
    valid : torch.Tensor
        A scalar, on any device.
    """
    perturbed, clean = group.gradients(), group.clean
    torch._foreach_mul_(perturbed, if_valid(valid, factor, 1.0, group))
    group.flat_clean.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
    torch._foreach_mul_(clean, if_valid(valid, clean_factor, 0.0, group))
    torch._foreach_add_(perturbed, clean)


def if_valid(
    valid: Tensor, factor: Factor, otherwise: float, group: FlatGroup
) -> Tensor:
    """Choose one of two factors in the group's precision, without a device sync."""
    like = group.flat_clean
    wide = torch.promote_types(like.dtype, torch.float32)
    chosen = torch.as_tensor(factor, dtype=wide, device=like.device)
    return torch.where(valid.to(like.device), chosen, otherwise)
