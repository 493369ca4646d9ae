"""Steps that use the clean gradient after the perturbed pass."""

import torch

from braindecode_sam.optim._workspace import KIND, dense_gradient
from braindecode_sam.optim.sam import SAM


class TwoGradientSAM(SAM):
    """A SAM that keeps the clean gradient until the perturbed one is there.

    A variant overrides ``_mixed``, which gets both as lists of tensors, of all
    parameters of all groups, perturbed or not, and returns what to descend along.
    """

    def _reset_transient_state(self):
        super()._reset_transient_state()
        self._clean = {}  # copies that are used again in the next step
        self._had_gradient = set()

    def _ascend(self):
        self._had_gradient = {p for p in self._params() if p.grad is not None}
        for p in self._had_gradient:
            if p not in self._clean or KIND(self._clean[p]) != KIND(p):
                self._clean[p] = torch.empty_like(p)
            self._clean[p].copy_(dense_gradient(p))
        super()._ascend()

    def _mix(self):
        if not self._has_ascended:
            return
        params = with_gradients(self._params(), self._had_gradient)
        clean = [
            self._clean[p] if p in self._had_gradient else torch.zeros_like(p)
            for p in params
        ]
        perturbed = [p.grad for p in params]
        if params:
            mixed = self._mixed(params, clean, perturbed)
            write_if_finite(
                params, mixed, dot(clean, clean) + dot(perturbed, perturbed)
            )

    def _mixed(self, params, clean, perturbed):
        raise NotImplementedError

    def _option(self, name, params):
        """Give each parameter's value of a group option."""
        values = {
            p: group[name] for group in self.param_groups for p in group["params"]
        }
        return [values[p] for p in params]


def with_gradients(params, also=()):
    """Give the parameters that have a gradient, and make those gradients dense.

    Parameters
    ----------
    params : list of torch.Tensor
        Parameters.
    also : set of torch.Tensor, optional
        Parameters that get a gradient of zeros if they have none.

    Returns
    -------
    params : list of torch.Tensor
        Those that have one now.
    """
    chosen = [p for p in params if p.grad is not None or p in also]
    for p in chosen:
        p.grad = dense_gradient(p)
    return chosen


def write_if_finite(params, gradients, size):
    """Replace the gradients, unless `size`, a scalar, is not finite.

    What is not finite is the base optimizer's to deal with, as if it were alone.
    """
    is_finite = torch.isfinite(size)
    for p, gradient in zip(params, gradients, strict=True):
        here = is_finite.to(p.device)
        p.grad.copy_(torch.where(here, gradient, p.grad))


def dot(first, second):
    """Inner product of vectors that are lists of tensors, on the first one's device."""
    products = [_product(a, b) for a, b in zip(first, second, strict=True)]
    return sum(product.to(products[0].device) for product in products)


def _product(a, b):
    wide = torch.promote_types(a.dtype, torch.float32)  # half precision overflows
    return (a.conj().to(wide) * b.to(wide)).real.sum()


def quotient(numerator, denominator):
    """Divide scalars; 0 where nothing can be divided by."""
    safe = torch.where(denominator == 0, 1, denominator)
    return torch.where(denominator == 0, 0, numerator / safe)
