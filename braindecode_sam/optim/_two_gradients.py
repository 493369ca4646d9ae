"""Base of the variants that need the clean gradient after the second pass, too."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from braindecode_sam.optim.sam import SAM, as_real, dense_gradient

# Factor of a vector. It is a tensor if it depends on values on a device.
Factor = float | Tensor


class TwoGradientSAM(SAM):
    """A SAM that keeps a copy of the clean gradient during the second pass.

    A variant overrides `_mix`, and finds the copies in `_clean`. What it keeps from
    step to step is in ``state``. It writes it after the base optimizer's step, since
    most base optimizers take a state that is not empty for their own.
    """

    @property
    def _clean(self) -> dict[Tensor, Tensor]:
        """The clean gradients by parameter, empty in a step without second pass."""
        return self._scratch.setdefault("clean", {})

    def _perturb(self) -> None:
        for p in self._params():
            if p.grad is not None:
                self._clean[p] = dense_gradient(p).clone()
        super()._perturb()

    def _combine(self) -> None:
        if self._clean:
            # A gradient that only one of the passes has counts as zero in the other.
            for p in self._params():
                if p.grad is not None and p not in self._clean:
                    self._clean[p] = torch.zeros_like(p)
                elif p.grad is None and p in self._clean:
                    p.grad = torch.zeros_like(p)
            with dense_gradients(self._clean):
                self._mix()

    def _mix(self) -> None:
        """Replace the perturbed gradients, which are dense, by those to step along."""

    def _step_along(self, factors: Any, inner_products: Iterable[Tensor]) -> None:
        """Set the gradients to ``a * g + b * g_p``.

        Parameters
        ----------
        factors : callable
            Returns a and b, numbers or scalars on any device, for a parameter group.
        inner_products : iterable of Tensor
            Where one of these is not finite, the gradients stay: the base optimizer
            treats those that are not finite as it does without SAM.
        """
        valid = torch.isfinite(sum(inner_products))
        for group in self.param_groups:
            a, b = factors(group)
            for p in group["params"]:
                if p in self._clean:
                    g, g_p = self._clean[p], p.grad
                    mixed = to_device(a, p) * g + to_device(b, p) * g_p
                    g_p.copy_(torch.where(to_device(valid, p), mixed, g_p))


@contextlib.contextmanager
def dense_gradients(params: Iterable[Tensor]) -> Iterator[None]:
    """Make gradients dense, and at the end sparse again, as SparseAdam needs them."""
    sparse = [(p, p.grad.sparse_dim()) for p in params if p.grad.is_sparse]
    for p, _ in sparse:
        p.grad = dense_gradient(p)
    yield
    for p, n_dims in sparse:
        p.grad = p.grad.to_sparse(n_dims)


def gradients(params: Iterable[Tensor]) -> list[Tensor]:
    """Return the current gradients."""
    return [p.grad for p in params]


def dot(first: Iterable[Tensor], second: Iterable[Tensor]) -> Tensor:
    """Return the inner product of two vectors, a scalar on the first one's device."""
    products = []
    for a, b in zip(first, second, strict=True):
        wide = torch.promote_types(as_real(a).dtype, torch.float32)  # squares overflow
        flat = (as_real(t).reshape(-1).to(wide) for t in (a, b))
        products.append(torch.dot(*flat))
    device = products[0].device
    return torch.stack([product.to(device) for product in products]).sum()


def quotient(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Divide scalars, with the result 0 where the denominator is 0."""
    safe = torch.where(denominator == 0, 1, denominator)
    return torch.where(denominator == 0, 0, numerator / safe)


def to_device(scalar: Factor, like: Tensor) -> Factor:
    """Move a scalar to the device of a tensor."""
    return scalar.to(like.device) if isinstance(scalar, Tensor) else scalar
