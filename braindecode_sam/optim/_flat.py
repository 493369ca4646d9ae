"""Weights to come back to, and the way to w + epsilon.

The parameters of one group that share a device, a dtype and a sharding form a
:class:`FlatGroup`. Their weights are kept in one flat tensor that is used again in the
next step, the only memory that a SAM needs beside its base optimizer's. Everything else
is ``torch._foreach_*`` on the gradients themselves.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Hashable, Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from braindecode_sam.optim._options import Options

Tensors = list[Tensor]

# Elements of a group whose norm is taken of a copy, on a CPU.
LARGEST_COPY = 2**16


class FlatGroup:
    """Parameters of one group on one device, of one dtype and one sharding.

    Parameters
    ----------
    options : Options
        The optimizer's parameter group; its options are read at every step.
    params : list of torch.Tensor
        Some parameters of that group, with gradients.

    Attributes
    ----------
    params : list of torch.Tensor
        The same.
    """

    def __init__(self, options: Options, params: list[Tensor]) -> None:
        self.options = options
        self.params = params
        self._is_plain = not (params[0].is_complex() or _is_sharded(params[0]))
        is_wide = params[0].dtype in (torch.float32, torch.float64)
        self._is_small = (self._is_plain and is_wide and params[0].is_cpu) and sum(
            p.numel() for p in params
        ) <= LARGEST_COPY

    # Tensors as arithmetic takes them: dense, real and local.

    def plain(self, tensors: Tensors) -> Tensors:
        """View tensors like the parameters as real tensors of this process."""
        return tensors if self._is_plain else [_plain(t) for t in tensors]

    def weights(self) -> Tensors:
        """Return the parameters, real and local."""
        return self.plain(self.params)

    def gradients(self) -> Tensors:
        """Return the gradients, dense, real and local; zeros for a missing one."""
        return self.plain([dense_gradient(p) for p in self.params])

    # Sums over all elements, those of other processes included.

    def inner(self, first: Tensors, second: Tensors) -> Tensor:
        """Return the inner product of two lists of tensors, a scalar."""
        wide = torch.promote_types(first[0].dtype, torch.float32)  # squares overflow
        products = [
            torch.dot(a.reshape(-1).to(wide), b.reshape(-1).to(wide))
            for a, b in zip(first, second, strict=True)
        ]
        return self._over_shards(torch.stack(products).sum())

    def norm(self, tensors: Tensors) -> Tensor:
        """Return the Euclidean norm of a list of tensors, a scalar."""
        if self._is_small:  # one norm of a copy takes less than many small norms
            flat = torch.cat([t.reshape(-1) for t in tensors])
            return torch.linalg.vector_norm(flat)
        half = tensors[0].dtype in (torch.float16, torch.bfloat16)
        wide = torch.float32 if half else None  # squares overflow
        norms = torch._foreach_norm(tensors, 2, wide)
        norm = torch.linalg.vector_norm(torch.stack(norms))
        if not _is_sharded(self.params[0]):
            return norm
        return self._over_shards(norm.square()).sqrt()

    def _over_shards(self, total: Tensor) -> Tensor:
        param: Any = self.params[0]
        if not _is_sharded(param):
            return total
        # Takes a second to import, and is there already if there is a DTensor.
        from torch.distributed.tensor import DTensor, Partial, Replicate

        placements = [
            Partial() if p.is_shard() else Replicate() for p in param.placements
        ]
        joint = DTensor.from_local(total, param.device_mesh, placements)
        return cast(Tensor, joint.full_tensor())

    # Copies, whose memory is kept.

    @functools.cached_property
    def _saved(self) -> Tensors:
        weights = self.weights()
        flat = weights[0].new_empty(sum(w.numel() for w in weights))
        return views(flat, weights)

    def save(self) -> None:
        """Copy the weights, bit for bit."""
        torch._foreach_copy_(self._saved, self.weights())

    def restore(self) -> None:
        """Write the saved weights back in place."""
        torch._foreach_copy_(self.weights(), self._saved)

    @functools.cached_property
    def flat_clean(self) -> Tensor:
        """The gradients that `save_gradients` copied, flat; zeros before that."""
        weights = self.weights()
        return weights[0].new_zeros(sum(w.numel() for w in weights))

    @functools.cached_property
    def clean(self) -> Tensors:
        """The same in the shapes of the weights."""
        return views(self.flat_clean, self.weights())

    def save_gradients(self) -> None:
        """Copy the gradients to `clean`."""
        torch._foreach_copy_(self.clean, self.gradients())

    # The perturbation.

    def magnitude(self) -> Tensors:
        """Return ASAM's T: |w| + eta for weights, 1 for biases."""
        flat = torch.cat([w.reshape(-1) for w in self.weights()]).abs_()
        pieces = views(flat.add_(self.options["eta"]), self.weights())
        for piece, is_weight in zip(pieces, self._are_weights, strict=True):
            if not is_weight:
                piece.fill_(1)
        return pieces

    @functools.cached_property
    def _are_weights(self) -> list[bool]:
        if "param_names" not in self.options:
            return [p.ndim > 1 for p in self.params]
        names = dict(
            zip(self.options["params"], self.options["param_names"], strict=True)
        )
        return ["bias" not in names[p].split(".") for p in self.params]

    def perturb(self, direction: Tensors, norm: Tensor) -> None:
        """Add rho / norm times the direction, or nothing if that is not finite.

        Parameters
        ----------
        direction : sequence of torch.Tensor
            In the shapes of the weights.
        norm : torch.Tensor
            A scalar on any device.
        """
        rho = self.options["rho"]
        weights = self.weights()
        if self.options.base.get("maximize"):
            rho = -rho  # the neighbourhood's worst objective is its smallest
        if may_read(norm) and may_read(weights[0]):
            size = float(norm)
            largest = torch.finfo(weights[0].dtype).max
            if math.isfinite(size) and abs(rho) < size * largest:
                torch._foreach_add_(weights, direction, alpha=rho / size)
            return
        # Asking for the norm's value would make the host wait for the accelerator.
        epsilon = torch.cat([d.reshape(-1) for d in direction])
        epsilon.mul_((rho / norm).to(epsilon.device))
        epsilon.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
        torch._foreach_add_(weights, views(epsilon, weights))


_KIND = operator.attrgetter("dtype", "device", "shape")
_SHARDING = operator.attrgetter("device_mesh", "placements")


class FlatGroups:
    """Parameters of an optimizer, split anew only when they change.

    Attributes
    ----------
    groups : list of FlatGroup
        The parameters' groups.
    """

    def __init__(self) -> None:
        self.groups: list[FlatGroup] = []
        self._layout: list[Any] = []

    def update(self, chosen: Sequence[tuple[Options, list[Tensor]]]) -> None:
        """Fit them to some parameters of each of the optimizer's groups."""
        # A module's .to() changes its parameters in place.
        layout = [
            (id(group), list(map(id, params)), list(map(_KIND, params)))
            for group, params in chosen
        ]
        if layout != self._layout:
            self._layout = layout
            self.groups = [g for pair in chosen for g in flat_groups(*pair)]


def chosen_params(group: Options) -> list[Tensor]:
    """Return what ``perturb_only`` chose of a group."""
    params, positions = group.base["params"], group.own["perturbed"]
    return params if positions is None else [params[i] for i in positions]


def with_gradient(params: Iterable[Tensor]) -> list[Tensor]:
    """Leave out parameters without a gradient: there is nowhere to go.

    Those are frozen weights, whatever their dtype or layout, lazy ones that no forward
    has reached, and integers.
    """
    return [p for p in params if p.grad is not None]


def flat_groups(options: Options, params: Iterable[Tensor]) -> list[FlatGroup]:
    """Split parameters of one group by device, dtype and sharding."""
    alike: dict[Hashable, list[Tensor]] = {}
    for p in params:
        sharding = _SHARDING(p) if _is_sharded(p) else None
        alike.setdefault((p.device, p.dtype, sharding), []).append(p)
    return [FlatGroup(options, some) for some in alike.values()]


def joint_norm(norms: Sequence[Tensor]) -> Tensor:
    """Return the Euclidean norm of all tensors together, from the norm of each part.

    Parameters
    ----------
    norms : sequence of torch.Tensor
        Scalars, perhaps on several devices.

    Returns
    -------
    norm : torch.Tensor
        A scalar on the device of the first.
    """
    if len(norms) == 1:
        return norms[0]
    return torch.linalg.vector_norm(torch.stack(gather(norms)))


def gather(scalars: Sequence[Tensor]) -> list[Tensor]:
    """Bring scalars to the device of the first."""
    return [scalar.to(scalars[0].device) for scalar in scalars]


def dense_gradient(param: Tensor) -> Tensor:
    """Return the gradient of a parameter as a dense tensor, zeros if there is none."""
    grad = param.grad
    if grad is None:
        return torch.zeros_like(param)
    return grad if grad.layout is torch.strided else grad.to_dense()


def views(flat: Tensor, like: Tensors) -> Tensors:
    """Cut a flat tensor into pieces of the shapes of some tensors."""
    pieces = flat.split([t.numel() for t in like])
    return [piece.view(t.shape) for piece, t in zip(pieces, like, strict=True)]


def may_read(tensor: Tensor) -> bool:
    """Whether the host can read a value without waiting for a device."""
    return tensor.is_cpu


def _is_sharded(tensor: Tensor) -> bool:
    return hasattr(tensor, "full_tensor")  # a DTensor


def _plain(tensor: Any) -> Tensor:
    local: Tensor = tensor.to_local() if _is_sharded(tensor) else tensor
    return torch.view_as_real(local) if local.is_complex() else local
