"""Base of the variants that need the clean gradient after the second pass, too."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from braindecode_sam.optim.sam import SAM, as_real, dense_gradient


class TwoGradientSAM(SAM):
    """A SAM that keeps a copy of the clean gradient during the second pass.

    A variant overrides `_factors`, and finds the copies in `_clean`.
    """

    @property
    def _clean(self) -> dict[Tensor, Tensor]:
        """The clean gradients, or what a variant combines with those of one pass."""
        clean: dict[Tensor, Tensor] = self._scratch.setdefault("clean", {})
        return clean

    def _perturb(self) -> None:
        for p in self._params():
            if p.grad is not None:
                self._clean[p] = dense_gradient(p).clone()
        super()._perturb()

    def _combine(self) -> None:
        if not self._clean:
            return
        # A gradient that only one of the passes has counts as zero in the other.
        for p in self._params():
            if p.grad is not None and p not in self._clean:
                self._clean[p] = torch.zeros_like(p)
            if p in self._clean:
                g_p = dense_gradient(p)
                p.grad = torch.zeros_like(p) if g_p is None else g_p
        g, g_p = list(self._clean.values()), [p.grad for p in self._clean]
        products = _dot(g, g), _dot(g, g_p), _dot(g_p, g_p)
        # Gradients that are not finite stay: the base treats them as without SAM.
        valid = torch.isfinite(products[0] + products[2])
        for group in self.param_groups:
            a, b = self._factors(group, *products)
            for p in self._clean.keys() & group["params"]:
                mixed = on_device(p, a) * self._clean[p] + on_device(p, b) * p.grad
                p.grad = torch.where(on_device(p, valid), mixed, p.grad).to(p.dtype)

    def _factors(
        self, group: dict[str, Any], g_g: Tensor, g_gp: Tensor, gp_gp: Tensor
    ) -> tuple[Any, Any]:
        """Return a and b of the gradient ``a * g + b * g_p`` to step along.

        The scalars are inner products of the vectors of all groups.
        """
        raise NotImplementedError


def _dot(first: list[Any], second: list[Any]) -> Tensor:
    products = []
    for a, b in zip(first, second, strict=True):
        wide = torch.promote_types(as_real(a).dtype, torch.float32)  # float16 overflows
        flat = (as_real(t).reshape(-1).to(wide) for t in (a, b))
        products.append(torch.dot(*flat))
    return torch.stack([product.to(products[0].device) for product in products]).sum()


def quotient(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Divide scalars, with the result 0 where the denominator is 0."""
    return torch.where(denominator == 0, 0, numerator / denominator)


def on_device(param: Tensor, scalar: Any) -> Any:
    """Move a scalar to the device of a parameter, if it is a tensor."""
    return scalar.to(param.device) if isinstance(scalar, Tensor) else scalar
