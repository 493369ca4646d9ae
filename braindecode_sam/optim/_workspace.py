"""Kept buffers of a SAM step, so that a step allocates next to nothing.

All perturbed parameters of one group that share a device and a dtype are mirrored
in a flat tensor, the weights to come back to, and where the gradients cannot serve
as they are in a second one, the perturbation. What can be done on a flat tensor is
one kernel however many parameters there are; the rest is ``torch._foreach_*``.
"""

import functools
import math
import operator

import torch

KIND = operator.attrgetter("dtype", "device", "shape")


class Segment:
    """Mirror of some parameters of one parameter group.

    Parameters
    ----------
    group : dict
        The optimizer's parameter group; its options are read at every step.
    params : list of torch.Tensor
        Parameters of that group on one device and of one dtype.
    are_weights : list of bool
        Which of them are weights, not biases: the adaptive radius is relative to
        those only.

    Attributes
    ----------
    direction : list of torch.Tensor
        Where the ascent goes, shaped as the parameters and not yet scaled: the
        gradients themselves as long as nothing has to be written to them.
    saved : torch.Tensor
        The weights to come back to, flat.
    on_cpu : bool
        Whether the host may read values without waiting for a device.
    """

    def __init__(self, group, params, are_weights):
        self.group = group
        self.params = params
        self._are_weights = are_weights
        self.direction = []
        self._is_complex = params[0].is_complex()
        self._shapes = [p.shape for p in self.real(params)]
        n_elements = sum(map(math.prod, self._shapes))
        self.saved = self.real(params)[0].new_empty(n_elements)
        self._saved_views = self._views(self.saved)
        self.on_cpu = self.saved.is_cpu

    @functools.cached_property
    def epsilon(self):
        """Kept flat copy of the direction, for all that must write to it."""
        return torch.empty_like(self.saved)

    @functools.cached_property
    def _epsilon_views(self):
        return self._views(self.epsilon)

    @functools.cached_property
    def _is_bias(self):
        mask = torch.zeros_like(self.saved, dtype=torch.bool)
        for view, is_weight in zip(self._views(mask), self._are_weights, strict=True):
            view.fill_(not is_weight)
        return mask

    def save(self):
        """Copy the weights, bit for bit."""
        torch._foreach_copy_(self._saved_views, self.real(self.params))

    def restore(self):
        """Write the saved weights back in place."""
        torch._foreach_copy_(self.real(self.params), self._saved_views)

    def read_gradients(self):
        """Give the gradients, real and dense; a missing one counts as zero."""
        return self.real(list(map(dense_gradient, self.params)))

    def scale_by_weights(self):
        """Multiply the direction by T: |w| + eta for weights, 1 for biases."""
        self._own_direction()
        magnitude = self.saved.abs().add_(self.group["eta"])
        self.epsilon.mul_(magnitude.masked_fill_(self._is_bias, 1))

    def norm(self):
        """Euclidean norm of the direction, a scalar on its device."""
        norms = torch._foreach_norm(self.direction, 2, self._norm_dtype)
        return torch.linalg.vector_norm(torch.stack(norms))

    def perturb(self, norm):
        """Add rho / norm times the direction, or nothing if that is not finite."""
        rho = self.group["rho"]
        if norm.is_cpu and self.on_cpu:
            norm = float(norm)
            largest = torch.finfo(self.saved.dtype).max
            if math.isfinite(norm) and rho < norm * largest:
                params = self.real(self.params)
                torch._foreach_add_(params, self.direction, alpha=rho / norm)
            return
        # Asking for the norm's value would make the host wait for the accelerator.
        self._own_direction()
        self.epsilon.mul_((rho / norm).to(self.epsilon.device))
        self.epsilon.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
        torch._foreach_add_(self.real(self.params), self._epsilon_views)

    def _own_direction(self):
        if self.direction is not self._epsilon_views:
            torch._foreach_copy_(self._epsilon_views, self.direction)
            self.direction = self._epsilon_views

    @property
    def _norm_dtype(self):
        # Squares of half-precision gradients overflow.
        half = self.saved.dtype in (torch.float16, torch.bfloat16)
        return torch.float32 if half else None

    def real(self, tensors):
        """View tensors like the parameters as real ones."""
        if self._is_complex:
            return [torch.view_as_real(t) for t in tensors]
        return tensors

    def _views(self, flat):
        pieces = flat.split([math.prod(shape) for shape in self._shapes])
        return [v.view(s) for v, s in zip(pieces, self._shapes, strict=True)]


def joint_norm(norms):
    """Euclidean norm of all tensors together, from the norm of each.

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
    device = norms[0].device
    return torch.linalg.vector_norm(torch.stack([norm.to(device) for norm in norms]))


class Workspace:
    """Segments for all perturbed parameters, rebuilt when those change.

    Attributes
    ----------
    segments : list of Segment
        One for each group, device and dtype that holds a perturbed parameter.
    """

    def __init__(self):
        self.segments = []
        self._layout = []

    def update(self, param_groups):
        """Make the segments fit the groups.

        Parameters
        ----------
        param_groups : list of dict
            The optimizer's groups. ``group["perturbed"]`` holds positions in
            ``group["params"]``, or None for all.
        """
        groups = [(group, _perturbed_params(group)) for group in param_groups]
        # A module's .to() changes its parameters in place.
        layout = [
            (id(group), list(map(id, params)), list(map(KIND, params)))
            for group, params in groups
        ]
        if layout != self._layout:
            self._layout = layout
            self.segments = [s for args in groups for s in _split_by_kind(*args)]


def dense_gradient(param):
    """Give the gradient of a parameter as a dense tensor, zeros if there is none."""
    grad = param.grad
    if grad is None:
        return torch.zeros_like(param)
    return grad if grad.layout is torch.strided else grad.to_dense()


def _perturbed_params(group):
    positions = group["perturbed"]
    params = group["params"]
    return params if positions is None else [params[i] for i in positions]


def _split_by_kind(group, params):
    weights = set(map(id, _weights(group)))
    alike = {}
    for p in params:
        alike.setdefault((p.device, p.dtype), []).append(p)
    return [
        Segment(group, some, [id(p) in weights for p in some])
        for some in alike.values()
    ]


def _weights(group):
    """Parameters of a group that are not biases, by name or else by dimensions."""
    params = group["params"]
    if "param_names" in group:
        named = zip(group["param_names"], params, strict=True)
        return [p for name, p in named if "bias" not in name.split(".")]
    return [p for p in params if p.ndim > 1]
