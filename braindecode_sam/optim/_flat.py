"""Perturbation and restoration of the weights.

The parameters of one group that share a device, a dtype and a sharding form a
:class:`FlatGroup`. A copy of their weights is kept in one flat tensor, which is reused
in the next step. It is the only memory that a SAM needs in addition to its base
optimizer's. All other operations are ``torch._foreach_*`` on the gradients.
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

# Largest number of elements of a group whose norm is computed from a copy, on a CPU.
LARGEST_COPY = 2**16


class FlatGroup:
    """Parameters of one group on one device, of one dtype and one sharding.

    Parameters
    ----------
    options : Options
        The optimizer's parameter group. Its options are read at every step.
    params : list of torch.Tensor
        Parameters of that group that have gradients.

    Attributes
    ----------
    params : list of torch.Tensor
        Those parameters.
    """

    def __init__(self, options: Options, params: list[Tensor]) -> None:
        self.options = options
        self.params = params
        self._is_plain = not (params[0].is_complex() or _is_sharded(params[0]))
        is_wide = params[0].dtype in (torch.float32, torch.float64)
        self._is_small = (self._is_plain and is_wide and params[0].is_cpu) and sum(
            p.numel() for p in params
        ) <= LARGEST_COPY

    # Tensors in the form that the arithmetic needs: dense, real and local.

    def plain(self, tensors: Tensors) -> Tensors:
        """View tensors like the parameters as real tensors of this process."""
        return tensors if self._is_plain else [_plain(t) for t in tensors]

    def weights(self) -> Tensors:
        """Return the parameters, real and local."""
        return self.plain(self.params)

    def gradients(self) -> Tensors:
        """Return the gradients, dense, real and local, with zeros for missing ones."""
        return self.plain([dense_gradient(p) for p in self.params])

    # Sums over all elements, including those of other processes.

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
        if self._is_small:  # faster than many small norms
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
        # The module takes a second to import. With a DTensor, it is imported already.
        from torch.distributed.tensor import DTensor, Partial, Replicate

        placements = [
            Partial() if p.is_shard() else Replicate() for p in param.placements
        ]
        joint = DTensor.from_local(total, param.device_mesh, placements)
        return cast(Tensor, joint.full_tensor())

    # Copies. Their memory is reused.

    @functools.cached_property
    def _saved(self) -> Tensors:
        weights = self.weights()
        flat = weights[0].new_empty(sum(w.numel() for w in weights))
        return views(flat, weights)

    def save(self) -> None:
        """Copy the weights."""
        torch._foreach_copy_(self._saved, self.weights())

    def restore(self) -> None:
        """Write the saved weights back in place."""
        torch._foreach_copy_(self.weights(), self._saved)

    @functools.cached_property
    def flat_clean(self) -> Tensor:
        """Flat copy of the gradients made by `save_gradients`. Zeros before that."""
        weights = self.weights()
        return weights[0].new_zeros(sum(w.numel() for w in weights))

    @functools.cached_property
    def clean(self) -> Tensors:
        """Views of `flat_clean` in the shapes of the weights."""
        return views(self.flat_clean, self.weights())

    def save_gradients(self) -> None:
        """Copy the gradients to `clean`."""
        torch._foreach_copy_(self.clean, self.gradients())

    # The perturbation.

    def magnitude(self) -> Tensors:
        """Return T of ASAM, which is |w| + eta for weights and 1 for biases."""
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
        """Add rho / norm times the direction, or nothing if the result is not finite.

        Parameters
        ----------
        direction : sequence of torch.Tensor
            In the shapes of the weights.
        norm : torch.Tensor
            A scalar, on any device.
        """
        rho = self.options["rho"]
        weights = self.weights()
        if self.options.base.get("maximize"):
            rho = -rho  # the worst objective is then the smallest
        if may_read(norm) and may_read(weights[0]):
            size = float(norm)
            largest = torch.finfo(weights[0].dtype).max
            if math.isfinite(size) and abs(rho) < size * largest:
                torch._foreach_add_(weights, direction, alpha=rho / size)
            return
        # Reading the norm would make the host wait for the accelerator.
        epsilon = torch.cat([d.reshape(-1) for d in direction])
        epsilon.mul_((rho / norm).to(epsilon.device))
        epsilon.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
        torch._foreach_add_(weights, views(epsilon, weights))


_metadata = operator.attrgetter("dtype", "device", "shape")
_sharding = operator.attrgetter("device_mesh", "placements")


class FlatGroups:
    """Parameters of an optimizer in flat groups, rebuilt only when they change.

    Attributes
    ----------
    groups : list of FlatGroup
        The parameters' groups.
    """

    def __init__(self) -> None:
        self.groups: list[FlatGroup] = []
        self._layout: list[Any] = []

    def update(self, chosen: Sequence[tuple[Options, list[Tensor]]]) -> None:
        """Rebuild the groups if the given parameters of the optimizer have changed."""
        # module.to() changes parameters in place, so their ids do not suffice.
        layout = [
            (id(group), list(map(id, params)), list(map(_metadata, params)))
            for group, params in chosen
        ]
        if layout != self._layout:
            self._layout = layout
            self.groups = [g for pair in chosen for g in flat_groups(*pair)]


def chosen_params(group: Options) -> list[Tensor]:
    """Return the parameters of a group that ``perturb_only`` has chosen."""
    params, positions = group.base["params"], group.own["perturbed"]
    return params if positions is None else [params[i] for i in positions]


def with_gradient(params: Iterable[Tensor]) -> list[Tensor]:
    """Return the parameters that have a gradient.

    The others are frozen weights of any dtype or layout, lazy parameters that no
    forward has reached, and integers.
    """
    return [p for p in params if p.grad is not None]


def flat_groups(options: Options, params: Iterable[Tensor]) -> list[FlatGroup]:
    """Split parameters of one group by device, dtype and sharding."""
    alike: dict[Hashable, list[Tensor]] = {}
    for p in params:
        sharding = _sharding(p) if _is_sharded(p) else None
        alike.setdefault((p.device, p.dtype, sharding), []).append(p)
    return [FlatGroup(options, some) for some in alike.values()]


def joint_norm(norms: Sequence[Tensor]) -> Tensor:
    """Return the Euclidean norm of a vector from the norms of its parts.

    Parameters
    ----------
    norms : sequence of torch.Tensor
        Scalars, possibly on several devices.

    Returns
    -------
    norm : torch.Tensor
        A scalar on the device of the first.
    """
    if len(norms) == 1:
        return norms[0]
    return torch.linalg.vector_norm(torch.stack(gather(norms)))


def gather(scalars: Sequence[Tensor]) -> list[Tensor]:
    """Move scalars to the device of the first."""
    return [scalar.to(scalars[0].device) for scalar in scalars]


def dense_gradient(param: Tensor) -> Tensor:
    """Return the gradient of a parameter as a dense tensor, or zeros if it has none."""
    grad = param.grad
    if grad is None:
        return torch.zeros_like(param)
    return grad if grad.layout is torch.strided else grad.to_dense()


def views(flat: Tensor, like: Tensors) -> Tensors:
    """Split a flat tensor into views in the shapes of some tensors."""
    pieces = flat.split([t.numel() for t in like])
    return [piece.view(t.shape) for piece, t in zip(pieces, like, strict=True)]


def may_read(tensor: Tensor) -> bool:
    """Whether the host can read the tensor without waiting for a device."""
    return tensor.is_cpu


def _is_sharded(tensor: Tensor) -> bool:
    return hasattr(tensor, "full_tensor")  # a DTensor


def _plain(tensor: Any) -> Tensor:
    local: Tensor = tensor.to_local() if _is_sharded(tensor) else tensor
    return torch.view_as_real(local) if local.is_complex() else local
