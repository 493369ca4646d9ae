"""Sharpness-Aware Minimization, the optimizer that the variants derive from.

The base optimizer has the parameter groups, the state and the defaults of both. The
options of SAM are further keys of the groups.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from braindecode_sam._arguments import (
    as_builtin,
    check_bool,
    check_integer,
    check_non_negative,
)
from braindecode_sam._interrupts import DeferSigint
from braindecode_sam.optim._second_pass import (
    PreservedBuffers,
    replayed_rng,
    rng_states,
)

Loss = TypeVar("Loss", Tensor, float)
BaseOptimizer = Callable[..., Optimizer]
# Called with name and value. It raises the error that users see.
Check = Callable[[str, Any], object]

Tensors = list[Tensor]
PREFIX = "base_optimizer__"


def _of_base(name: str) -> Any:
    """Return a property that reads and writes an attribute of the base optimizer."""
    return property(
        lambda self: getattr(self.base_optimizer, name),
        lambda self, value: setattr(self.base_optimizer, name, value),
    )


class SAM(Optimizer):
    r"""Sharpness-Aware Minimization around any optimizer of torch.

    SAM [1]_ minimizes the largest loss within the distance `rho` of the weights. A step
    runs forward and backward twice on the same batch: at the weights w, and at w +
    epsilon, where the loss is larger. The base optimizer then updates w with the
    gradient of the second pass.

    Parameters
    ----------
    params : iterable
        Tensors, named tensors or parameter groups, as for any torch optimizer. A
        group may set options of its own. ``rho=0`` leaves the group's weights
        unperturbed, but its gradients still count in the norm.
    base_optimizer : type, default=torch.optim.AdamW
        Class of the optimizer that updates the weights, or a ``functools.partial`` of
        one. It must be able to step without a closure.
    rho : float, default=0.05
        Radius of the perturbation, in the units of the weights. If it is 0 in every
        group, a step is one plain pass and a step of the base optimizer.
    adaptive : bool, default=False
        Use ASAM's adaptive radius [2]_. Biases are not rescaled: parameters named
        "bias", as in "conv.bias", or, where `params` have no names, those with fewer
        than two dimensions, which includes the weights of normalization layers.
    interval : int, default=1
        Perturb on every `interval`-th step, starting with the first.
    eta : float, default=0.01
        Added to the weights' magnitude if `adaptive`.
    **base_kwargs
        Options of the base optimizer, also with the prefix ``base_optimizer__``. It is
        needed where SAM has an option of the same name, such as Adadelta's ``rho``.

    Attributes
    ----------
    base_optimizer : torch.optim.Optimizer
        The base optimizer. Its ``param_groups``, ``state`` and ``defaults`` are also
        those of this optimizer. A group has the options of both. If both have one of
        the same name, it is the base optimizer's, and SAM's is ``sam__rho``. (In the
        constructor and in `add_param_group`, the plain name is SAM's.)
    n_steps : int
        Number of steps made.
    last_loss, last_perturbed_loss : torch.Tensor or None
        Loss at w and at w + epsilon in the last step. The second is None if that step
        was not perturbed. Both are None in the two-step form.
    last_grad_norm : torch.Tensor or None
        Norm that scaled epsilon in the last step. None if that step was not perturbed.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type or value, there are no parameters, the base
        optimizer is not an optimizer class or needs a closure (``LBFGS``), or processes
        share the parameters (FSDP) or their state (``ZeroRedundancyOptimizer``).

    See Also
    --------
    braindecode_sam.SAMCallback : Schedule rho and record the sharpness in skorch.
    braindecode_sam.optim.GSAM : Also minimizes the gap between both losses.
    braindecode_sam.optim.WSAM : Weights the sharpness against the loss.
    braindecode_sam.optim.FriendlySAM : Perturbs along the noise of the batch.
    braindecode_sam.optim.LookSAM : Makes a second pass on every k-th step.
    braindecode_sam.optim.AESAM : Makes a second pass where gradients are large.
    braindecode_sam.optim.MomentumSAM : Perturbs along the momentum, in one pass.

    Notes
    -----
    **Update rule.** For a loss :math:`L`, weights :math:`w`, a radius :math:`\rho` and
    a base optimizer :math:`B`, a step computes (eq. 2 and Algorithm 1 of [1]_)

    .. math::

        g &= \nabla L(w) \\
        \epsilon &= \rho \, \frac{g}{\lVert g \rVert} \\
        g_p &= \nabla L(w + \epsilon) \\
        w &\leftarrow B(w, g_p)

    The norm is taken over the parameters of all groups. With ``adaptive=True``
    (eq. 8 of [2]_) it is

    .. math:: \epsilon = \rho \, \frac{T^2 g}{\lVert T g \rVert}

    where :math:`T = |w| + \eta` for weights and :math:`T = 1` for biases and the
    shifts of normalization layers, as in the authors' code. Eq. 8 itself, and other
    implementations, rescale all parameters. With ``maximize=True``, an option of
    torch's optimizers, the perturbation descends.

    **Weight decay** is left to the base optimizer, as users of AdamW expect. The papers
    add an L2 penalty to :math:`L` instead.

    **Buffers and random numbers** end as after the first pass, for every module that
    the second one calls. Both passes draw the same dropout masks. Otherwise BatchNorm
    would count each batch twice, and :math:`g` and :math:`g_p` would be gradients of
    two different functions. :doc:`/limits` names what is not covered.

    **Errors.** If a pass raises, even ``KeyboardInterrupt`` or an out-of-memory error,
    weights and state are those of before the step. SIGINT is deferred while the
    optimizer runs, and raised in the closure or at the end of the step.

    **Two-step form.** :meth:`first_step` and :meth:`second_step` are for loops that
    make the passes themselves. There, the second pass draws other dropout masks, and
    only buffers of modules that have a parameter of this optimizer are preserved.

    References
    ----------
    .. [1] P. Foret, A. Kleiner, H. Mobahi, B. Neyshabur. "Sharpness-Aware Minimization
       for Efficiently Improving Generalization", ICLR 2021.
       https://doi.org/10.48550/arXiv.2010.01412
    .. [2] J. Kwon, J. Kim, H. Park, I. K. Choi. "ASAM: Adaptive Sharpness-Aware
       Minimization for Scale-Invariant Learning of Deep Neural Networks", ICML 2021.
       https://doi.org/10.48550/arXiv.2102.11600

    Examples
    --------
    >>> import torch
    >>> from braindecode_sam import SAM
    >>> _ = torch.manual_seed(0)
    >>> model = torch.nn.Linear(2, 1)
    >>> optimizer = SAM(
    ...     model.parameters(), torch.optim.SGD, lr=0.1, momentum=0.9)
    >>> x, y = torch.ones(4, 2), torch.zeros(4, 1)
    >>> def closure():
    ...     optimizer.zero_grad()
    ...     loss = torch.nn.functional.mse_loss(model(x), y)
    ...     loss.backward()
    ...     return loss
    >>> before = optimizer.step(closure).item()
    >>> optimizer.step(closure).item() < before
    True

    The same in two steps:

    >>> _ = closure()
    >>> optimizer.first_step()
    >>> _ = closure()
    >>> optimizer.second_step()
    """

    # Options of a parameter group, each with its check. A variant adds others.
    _options: ClassVar[dict[str, Check]] = {
        "rho": check_non_negative,
        "adaptive": check_bool,
        "interval": functools.partial(check_integer, smallest=1),
        "eta": check_non_negative,
    }
    # What the groups hold besides, since every kind of checkpoint saves the groups.
    _initial: ClassVar[dict[str, Any]] = {"n_steps": 0, "perturbed": None}

    param_groups = _of_base("param_groups")
    defaults = _of_base("defaults")
    state = _of_base("state")
    base_optimizer: Optimizer
    last_loss: Any
    last_perturbed_loss: Any
    last_grad_norm: Tensor | None
    _keys: dict[str, str]  # of options in a group, by their names
    _undo: Any  # within a step, an ExitStack that undoes the perturbation
    _scratch: dict[Any, Any]  # of a variant, within a step
    _zeroed: dict[Tensor, int]  # gradients that zero_grad has zeroed, with versions
    _earlier: dict[Tensor, int]  # those of earlier passes

    def __init__(
        self,
        params: Iterable[Any],
        base_optimizer: BaseOptimizer = torch.optim.AdamW,
        *,
        rho: float = 0.05,
        adaptive: bool = False,
        interval: int = 1,
        eta: float = 0.01,
        **base_kwargs: Any,
    ) -> None:
        base_class = _checked_class(base_optimizer)
        own = {"rho": rho, "adaptive": adaptive, "interval": interval, "eta": eta}
        own |= {k: base_kwargs.pop(k) for k in self._options if k not in own}
        own |= self._initial
        taken = inspect.signature(base_class).parameters
        self._keys = {name: f"sam__{name}" if name in taken else name for name in own}
        own = self._spelled(own)
        if not isinstance(params, Tensor):  # otherwise, the base optimizer raises
            params = list(params)
            if not (params and isinstance(params[0], dict)):
                params = [{"params": params}]
            params = [{**own, **self._spelled(group)} for group in params]
        given = {name: as_builtin(value) for name, value in base_kwargs.items()}
        plain = {k: v for k, v in given.items() if not k.startswith(PREFIX)}
        prefixed = {k.removeprefix(PREFIX): given[k] for k in given if k not in plain}
        base = base_optimizer(params, **plain, **prefixed)
        base.defaults.update(own)
        # torch's constructor would build groups of its own. This sets up its hooks.
        self.__setstate__({"base_optimizer": base, "_keys": self._keys})
        self._check_params()
        self._check_options(self.param_groups)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.base_optimizer!r})"

    def _spelled(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Give options the names that they have in a group."""
        return {
            self._keys.get(name, name.removeprefix(PREFIX)): as_builtin(value)
            for name, value in options.items()
        }

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group, with options of SAM and of its base optimizer."""
        if isinstance(param_group, dict):  # otherwise, the base optimizer raises
            param_group = self._spelled(param_group)
            self._check_options([{**self.defaults, **param_group}])
            if any(self._option(g, "perturbed") is not None for g in self.param_groups):
                param_group[self._keys["perturbed"]] = []
        self.base_optimizer.add_param_group(param_group)
        self._check_params()

    @property
    def n_steps(self) -> int:
        """Number of steps made."""
        return self._shared("n_steps")

    def _option(self, group: dict[str, Any], name: str) -> Any:
        return group[self._keys[name]]

    def _shared(self, name: str) -> Any:
        """Return an option that all groups share."""
        return self._option(self.param_groups[0], name)

    def _share(self, name: str, value: Any) -> None:
        for group in self.param_groups:
            group[self._keys[name]] = value

    @torch.no_grad()
    def step(  # type: ignore[override]  # a closure is required
        self, closure: Callable[[], Loss] | None = None
    ) -> Loss:
        """Make one step.

        Parameters
        ----------
        closure : callable
            Zeroes the gradients, runs forward and backward, and returns the loss. It
            is called twice, or once if the step is not perturbed.

        Returns
        -------
        loss : torch.Tensor
            Loss at the unperturbed weights, as returned by the closure.

        Raises
        ------
        TypeError
            If there is no closure.
        RuntimeError
            If the step perturbs the weights, and the closure adds to earlier gradients,
            which would be lost or mixed with others. If it calls this method itself, or
            this is between :meth:`first_step` and :meth:`second_step`.
        """
        if closure is None:
            raise TypeError(
                "SAM.step needs a closure that zeroes the gradients, runs forward and"
                " backward and returns the loss. Without one, call first_step() before"
                " and second_step() after the second pass. In the place of skorch's"
                " AccelerateMixin, use SAMAccelerateMixin."
            )
        with DeferSigint() as sigint:

            def run_pass() -> Loss:
                with torch.enable_grad():
                    return sigint.call(closure)

            self._begin("step")
            try:
                loss = self._run_passes(run_pass)
                self._restore()
                self._combine()
                self._descend()
            finally:
                self._end()
        return loss

    # The stages of a step, in order. A variant overrides one or two of them.

    def _run_passes(self, run_pass: Callable[[], Loss]) -> Loss:
        """Make the passes, and return the loss of the clean one."""
        params = self._params()
        states = rng_states({p.device for p in params})
        self._note_earlier_gradients()
        self.last_loss = detached(loss := run_pass())
        if self._should_perturb():
            self._refuse_accumulation()
            self._perturb()
            for p in params:
                p.grad = None  # in case the closure does not zero it
            with PreservedBuffers(), replayed_rng(states):
                self.last_perturbed_loss = detached(run_pass())
        return loss

    def _should_perturb(self) -> bool:
        """Whether to make a second pass, given the clean gradients."""
        return any(self._radius(group) for group in self.param_groups)

    def _perturb(self) -> None:
        """Move the weights from w to w + epsilon."""
        parts, norms = [], []
        for group in self.param_groups:
            for params, epsilon in self._directions(group):
                magnitude = self._magnitude(group, params)
                if magnitude is not None:
                    epsilon *= magnitude
                norms.append(norm(epsilon))  # with ASAM, that of T g
                if magnitude is not None:
                    epsilon *= magnitude
                parts.append((group, params, epsilon))
        self.last_grad_norm = joint = joint_norm(norms)
        for group, params, epsilon in parts:
            radius = self._radius(group)
            if radius:
                before = [torch.empty_like(p) for p in params]
                torch._foreach_copy_(before, params)
                self._undo.callback(torch._foreach_copy_, params, before)
                epsilon *= joint.reciprocal().mul_(radius).to(epsilon.device)
                # If the norm is 0 or not finite. An `if` would make the host wait.
                as_real(epsilon).nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
                torch._foreach_add_(params, _views(epsilon, params))
        torch.clear_autocast_cache()  # which has casts of the weights at w

    def _direction(self, p: Tensor, group: dict[str, Any]) -> Tensor | None:
        """Return the direction of the ascent of a parameter, or None."""
        return dense_gradient(p)

    def _combine(self) -> None:
        """Replace the gradients by those that the base optimizer steps along."""

    def _descend(self) -> None:
        """Step along the gradients."""
        self.base_optimizer.step()
        self._share("n_steps", self.n_steps + 1)

    # Parts of these stages.

    def _refuse_within_step(self, name: str) -> None:
        if self._undo is not None:
            raise RuntimeError(
                f"{name} was called between first_step and second_step, or in the"
                " closure of step. Call second_step() first, or restore() to return to"
                " the unperturbed weights."
            )

    def _begin(self, name: str) -> None:
        self._refuse_within_step(name)
        self._check_options(self.param_groups)
        self._undo = contextlib.ExitStack()
        self.last_loss = self.last_perturbed_loss = self.last_grad_norm = None

    def _radius(self, group: dict[str, Any]) -> float:
        if self.n_steps % self._option(group, "interval"):
            return 0.0
        # If the base maximizes, the worst objective is the smallest.
        sign = -1 if group.get("maximize") else 1
        return sign * self._option(group, "rho")

    def _directions(self, group: dict[str, Any]) -> list[tuple[Tensors, Tensor]]:
        """Group parameters by device and dtype, each with its flat direction.

        Flat tensors need few kernels on a GPU.
        """
        params, positions = group["params"], self._option(group, "perturbed")
        alike: dict[Any, tuple[Tensors, Tensors]] = {}
        for p in params if positions is None else [params[i] for i in positions]:
            direction = self._direction(p, group)
            if direction is not None:
                chosen, directions = alike.setdefault((p.device, p.dtype), ([], []))
                chosen.append(p)
                directions.append(direction)
        return [(chosen, _flat(directions)) for chosen, directions in alike.values()]

    def _magnitude(self, group: dict[str, Any], params: Tensors) -> Tensor | None:
        """Return T of ASAM, flat, which is |w| + eta for weights and 1 for biases."""
        if not self._option(group, "adaptive"):
            return None
        eta, names = self._option(group, "eta"), group.get("param_names", ())
        biases = {p for p in params if p.ndim < 2}
        if names:
            named = zip(group["params"], names, strict=True)
            biases = {p for p, name in named if "bias" in name.split(".")}
        parts = [torch.ones_like(p) if p in biases else p.abs() + eta for p in params]
        return _flat(parts)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Zero the gradients, or set them to None."""
        super().zero_grad(set_to_none)
        self._earlier = {}
        self._zeroed = {} if set_to_none else self._gradient_versions()

    def _gradient_versions(self) -> dict[Tensor, int]:
        """Return the gradients, each with a number that counts changes in place."""
        return {g: g._version for p in self._params() if (g := p.grad) is not None}

    def _note_earlier_gradients(self) -> None:
        versions = self._gradient_versions().items()
        self._earlier = {g: v for g, v in versions if self._zeroed.get(g) != v}

    def _refuse_accumulation(self) -> None:
        """Raise if a pass has added to gradients, without waiting for their values."""
        earlier, self._earlier = self._earlier, {}
        now = self._gradient_versions() if earlier else {}
        if any(earlier.get(g, version) != version for g, version in now.items()):
            raise RuntimeError(
                "The closure changed gradients of earlier passes in place. If it added"
                " to them, those of earlier batches would be lost, or mixed with those"
                " of other weights: SAM computes the gradients of a step on one batch."
                " Call optimizer.zero_grad() in the closure, and do not accumulate over"
                " batches (in Lightning,"
                " accumulate_grad_batches=1)."
            )

    # The two-step form, for loops that make the passes themselves.

    @torch.no_grad()
    def first_step(self, zero_grad: bool = False) -> None:
        """Move the weights from w to w + epsilon.

        Call it after the first backward pass, with the gradients at w. Then run
        forward and backward again on the same batch and call :meth:`second_step`. If
        the step is not perturbed (``rho=0``, `interval`), the weights stay at w.

        Parameters
        ----------
        zero_grad : bool, default=False
            Zero the gradients afterwards. Otherwise the second backward pass
            accumulates into them.

        Raises
        ------
        RuntimeError
            If the last call was not followed by :meth:`second_step` or :meth:`restore`.
        """
        with DeferSigint():
            self._begin("first_step")
            try:
                if self._should_perturb():
                    self._perturb()
                    self._undo.enter_context(PreservedBuffers(self._params()))
            except BaseException:
                self._end()
                raise
        if zero_grad:
            self.zero_grad()

    @Optimizer.profile_hook_step
    @torch.no_grad()
    def second_step(self, zero_grad: bool = False) -> None:
        """Move the weights back to w and step along the current gradients.

        Call it after the second backward pass, with the gradients at w + epsilon.

        Parameters
        ----------
        zero_grad : bool, default=False
            Zero the gradients afterwards.

        Raises
        ------
        RuntimeError
            If :meth:`first_step` was not called before.
        """
        if self._undo is None:
            raise RuntimeError("second_step was called without a first_step before it.")
        with DeferSigint():
            try:
                self._restore()
                self._combine()
                self._descend()
            finally:
                self._end()
        self._opt_called = True  # as a scheduler's wrapper of step() does
        if zero_grad:
            self.zero_grad()

    @torch.no_grad()
    def restore(self) -> None:
        """Move the weights back to w without a step.

        For two-step loops whose second pass failed. Buffers are restored, too. It does
        nothing if :meth:`first_step` was not called.
        """
        with DeferSigint():
            self._end()

    def _restore(self) -> None:
        undo, self._undo = self._undo, None
        if undo is not None:
            undo.close()
            torch.clear_autocast_cache()  # which has casts of the perturbed weights

    def _end(self) -> None:
        self._restore()
        self._scratch, self._earlier, self._zeroed = {}, {}, {}

    # Selection of what is perturbed.

    def perturb_only(self, params: Iterable[Tensor] | None = None) -> None:
        """Restrict the perturbation to some parameters.

        The other parameters, and groups that are added later, do not count in the norm
        either, so that the perturbation keeps its radius. To keep a group in the norm,
        set its `rho` to 0 instead.

        Parameters
        ----------
        params : iterable of torch.Tensor or None, default=None
            Parameters to perturb. None means all.

        Raises
        ------
        ValueError
            If `params` holds no parameter of this optimizer.
        """
        if params is None:
            self._share("perturbed", None)
            return
        chosen = set(params)
        positions = [
            [i for i, p in enumerate(group["params"]) if p in chosen]
            for group in self.param_groups
        ]
        if not any(positions):
            raise ValueError(
                f"params holds {len(chosen)} tensors, none of which is a parameter of"
                " this optimizer; expected some of its parameters."
            )
        for group, some in zip(self.param_groups, positions, strict=True):
            group[self._keys["perturbed"]] = some

    # Saving, loading and copying. state_dict() is torch's own.

    def __getstate__(self) -> dict[str, Any]:
        self._refuse_within_step("pickle or deepcopy")
        return {"base_optimizer": self.base_optimizer, "_keys": self._keys}

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "base_optimizer" in state:
            super().__setstate__(state)
        else:  # with a state of a SAM, or of its base optimizer alone
            self._refuse_within_step("load_state_dict")
            groups = state["param_groups"]
            for group, current in zip(groups, self.param_groups, strict=True):
                for key in self._keys.values():
                    group.setdefault(key, current[key])
            self.base_optimizer.__setstate__(state)
        self._undo = None
        self._end()
        self.last_loss = self.last_perturbed_loss = self.last_grad_norm = None

    # Checks.

    def _params(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def _check_options(self, groups: Iterable[dict[str, Any]]) -> None:
        """Check the options of groups, which are dicts that anyone may change."""
        for group in groups:
            for name, check in self._options.items():
                check(name, self._option(group, name))
            late = {k: v for k, v in group.items() if k.startswith("base_optimizer")}
            if late:  # by skorch's set_params on an initialized net
                raise ValueError(
                    f"{late} was set on an existing optimizer, but can only be given"
                    " to its constructor. With skorch, set it on"
                    " sklearn.base.clone(net)."
                )

    def _check_params(self) -> None:
        if not self._params():
            raise ValueError(
                "params must hold at least one tensor, got none. Note that"
                " model.parameters() can be iterated over only once."
            )
        for p in self._params():
            if hasattr(p, "full_tensor") or hasattr(p, "_fsdp_flattened"):
                raise ValueError(
                    "SAM cannot perturb the shards of FullyShardedDataParallel or"
                    f" fully_shard, got a {type(p).__name__}; expected whole"
                    " parameters, as with DistributedDataParallel."
                )


def _checked_class(base: BaseOptimizer) -> type[Optimizer]:
    """Return the class of the base optimizer, if it can be one."""
    cls = base.func if isinstance(base, functools.partial) else base
    if not (isinstance(cls, type) and issubclass(cls, Optimizer)):
        raise TypeError(
            "base_optimizer must be a class derived from torch.optim.Optimizer, such"
            f" as torch.optim.AdamW (the class, not an instance), got {base!r}"
        )
    closure = inspect.signature(cls.step).parameters.get("closure")
    requires_closure = closure is not None and closure.default is closure.empty
    is_sharded = cls.__name__ == "ZeroRedundancyOptimizer"
    if requires_closure or is_sharded or issubclass(cls, SAM):
        raise ValueError(
            "base_optimizer must be able to step without a closure and hold the state"
            " of all parameters, as torch.optim.AdamW and SGD do, got"
            f" {cls.__name__}"
        )
    return cls


def dense_gradient(p: Tensor) -> Any:
    """Return the gradient of a parameter as a dense tensor, or None."""
    grad = p.grad
    return grad if grad is None or grad.layout is torch.strided else grad.to_dense()


def as_real(tensor: Tensor) -> Tensor:
    """View a complex tensor as real and imaginary parts."""
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def norm(tensor: Tensor) -> Tensor:
    """Return the Euclidean norm of a tensor, at least in float32."""
    wide = torch.promote_types(tensor.dtype, torch.float32)  # float16 overflows
    return torch.linalg.vector_norm(tensor, dtype=wide)


def joint_norm(norms: list[Tensor]) -> Tensor:
    """Return the norm of a vector from those of its parts, on any devices."""
    if len(norms) < 2:
        return norms[0] if norms else torch.zeros(())
    device = norms[0].device
    return torch.linalg.vector_norm(torch.stack([n.to(device) for n in norms]))


def detached(loss: Any) -> Any:
    """Return a loss without its graph. A number is returned as it is."""
    return loss.detach() if isinstance(loss, Tensor) else loss


def _flat(tensors: Tensors) -> Tensor:
    return torch.cat([t.reshape(-1) for t in tensors])  # always a copy


def _views(flat: Tensor, like: Tensors) -> list[Tensor]:
    pieces = flat.split_with_sizes([t.numel() for t in like])
    return [piece.view_as(t) for piece, t in zip(pieces, like, strict=True)]
