"""Base of the variants that need the clean gradient after the second pass, too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from braindecode_sam.optim.sam import SAM, as_real, dense_gradient

# Factor of a vector: a scalar tensor if it depends on values on a device
Factor = Any


class TwoGradientSAM(SAM):
    """A SAM that keeps a copy of the clean gradient during the second pass.

    A variant overrides `_mix`, and finds the copies in `_clean`. What it keeps from
    step to step is in ``state``. It writes it after the base optimizer's step, since
    most base optimizers take a state that is not empty for their own.
    """

    @property
    def _clean(self) -> dict[Tensor, Tensor]:
        """Clean gradients by parameter. Empty in a step without a second pass."""
        clean: dict[Tensor, Tensor] = self._scratch.setdefault("clean", {})
        return clean

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
                if p in self._clean:
                    g_p = dense_gradient(p)
                    p.grad = torch.zeros_like(p) if g_p is None else g_p
            self._mix()

    def _mix(self) -> None:
        """Replace the perturbed gradients, which are dense, by those to step along."""

    def _inner_products(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return g g, g g_p and g_p g_p, scalars on one device."""
        g, g_p = list(self._clean.values()), [p.grad for p in self._clean]
        return _dot(g, g), _dot(g, g_p), _dot(g_p, g_p)

    def _step_along(
        self, factors: Callable[[dict[str, Any]], tuple[Factor, Factor]]
    ) -> None:
        """Set the gradients to ``a * g + b * g_p``, with factors for each group.

        Gradients that are not finite stay: the base optimizer treats them as it does
        without SAM.
        """
        g_squared, _, g_p_squared = self._inner_products()
        valid = torch.isfinite(g_squared + g_p_squared)
        for group in self.param_groups:
            a, b = factors(group)
            for p in self._clean.keys() & group["params"]:
                g, g_p = self._clean[p], p.grad
                mixed = on(p, a) * g + on(p, b) * g_p
                p.grad = torch.where(on(p, valid), mixed, g_p).to(p.dtype)


def _dot(first: list[Any], second: list[Any]) -> Tensor:
    products = []
    for a, b in zip(first, second, strict=True):
        wide = torch.promote_types(as_real(a).dtype, torch.float32)  # squares overflow
        flat = (as_real(t).reshape(-1).to(wide) for t in (a, b))
        products.append(torch.dot(*flat))
    return torch.stack([product.to(products[0].device) for product in products]).sum()


def quotient(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Divide scalars, with the result 0 where the denominator is 0."""
    safe = torch.where(denominator == 0, 1, denominator)
    return torch.where(denominator == 0, 0, numerator / safe)


def on(param: Tensor, scalar: Factor) -> Factor:
    """Move a scalar to the device of a parameter, if it is a tensor."""
    return scalar.to(param.device) if isinstance(scalar, Tensor) else scalar
