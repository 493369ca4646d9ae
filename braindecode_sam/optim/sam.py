r"""Sharpness-Aware Minimization.

With base optimizer B, loss L, weights w and radius rho, a step is::

    g       = grad L(w)                        closure, the clean pass
    epsilon = rho * g / ||g||                  ascend (adaptive: rho * T^2 g / ||T g||)
    g_p     = grad L(w + epsilon)              closure again, the perturbed pass
    w       = w                                restore, bit for bit
    w       = B(w, g_p)                        base step, weight decay included

The second pass replays the first one at w + epsilon: same batch, same random numbers,
same buffers. Left alone it would also move BatchNorm's running statistics a second
time, towards the statistics of the *perturbed* weights, and draw other dropout masks,
so that g_p and g would be gradients of two different functions. A SAM step leaves the
buffers and the random number generators exactly where one plain pass leaves them.

Foret, Kleiner, Mobahi, Neyshabur: Sharpness-Aware Minimization for Efficiently
Improving Generalization, ICLR 2021 (eq. 2 and Algorithm 1). Adaptive: Kwon, Kim,
Park, Choi: ASAM, ICML 2021 (eq. 8), with T = |w| + eta on weights and 1 on biases and
the shifts of normalization layers, as in its authors' code (others, and its eq. 8,
scale all of them). Both add the L2 penalty to L; here weight decay is the base
optimizer's alone, as AdamW's users expect.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim import optimizer as optimizer_module

from braindecode_sam._arguments import check_integer, check_non_negative
from braindecode_sam.optim._checks import (
    BaseOptimizer,
    Check,
    as_builtin,
    check_base_optimizer,
    check_base_options,
    check_bool,
    check_not_in_shards,
    check_params,
    check_positions,
    vanish,
    warn_of_misspelt,
)
from braindecode_sam.optim._flat import (
    FlatGroup,
    FlatGroups,
    Tensors,
    chosen_params,
    joint_norm,
    with_gradient,
)
from braindecode_sam.optim._options import Options, strip_prefix
from braindecode_sam.optim._second_pass import (
    BufferCache,
    DeferSigint,
    forget_cached_weights,
    preserve_buffers,
    replay_rng,
    rng_states,
)

Loss = TypeVar("Loss", Tensor, float)
Pass = Callable[[], Any]

# Tells torch's wrapper of every `step`, which runs the hooks, from the step itself.
_HOOKED = Optimizer.profile_hook_step(lambda optimizer: None).__code__


def _hooked_if_observed(step: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a step as torch does, but only where there are hooks or a profiler.

    Without an observer, torch's wrapper takes as long as the ascent of a small net.
    """
    hooked = Optimizer.profile_hook_step(step)

    @functools.wraps(step)
    def call(self: Optimizer, *args: Any, **kwargs: Any) -> Any:
        is_observed = (
            self._optimizer_step_pre_hooks
            or self._optimizer_step_post_hooks
            or optimizer_module._global_optimizer_pre_hooks
            or optimizer_module._global_optimizer_post_hooks
            or torch.autograd._profiler_enabled()
        )
        return (hooked if is_observed else step)(self, *args, **kwargs)

    call.hooked = True  # type: ignore[attr-defined]  # torch need not wrap it
    return call


class SAM(Optimizer):
    """Sharpness-Aware Minimization around any base optimizer of torch.

    Parameters
    ----------
    params : iterable
        Tensors, named tensors or parameter groups, as for any torch optimizer. A
        group may set its own ``rho``, ``adaptive`` and ``eta``; ``rho=0`` leaves
        the group's weights unperturbed (its gradients still count in the norm).
    base_optimizer : type, default=torch.optim.AdamW
        Class of the optimizer that makes the step, or a ``functools.partial`` of
        one. It may not need a closure itself.
    rho : float, default=0.05
        Radius of the perturbation, in the units of the weights. With 0 in every
        group a step is one plain pass of the base optimizer.
    adaptive : bool, default=False
        Use ASAM's adaptive radius. Biases are not rescaled: parameters named "bias"
        or, where `params` have no names, those with fewer than two dimensions (which
        includes the weights of normalization layers).
    interval : int, default=1
        Perturb on every `interval`-th step, starting with the first.
    eta : float, default=0.01
        Added to the weights' magnitude where `adaptive`.
    **base_kwargs
        Options of the base optimizer. An option whose name SAM uses too, such as
        Adadelta's ``rho``, is spelled ``base_optimizer__rho``; that spelling, which
        skorch's ``optimizer__base_optimizer__betas`` arrives as, works for all.

    Attributes
    ----------
    base_optimizer : torch.optim.Optimizer
        Its ``state`` is this optimizer's; its ``param_groups`` are the part of this
        optimizer's groups that are not options of SAM.
    n_steps : int
        Number of steps made.
    last_loss, last_perturbed_loss : torch.Tensor or None
        Loss at w and at w + epsilon in the last step; the second is None if that
        step was not perturbed.
    last_grad_norm : torch.Tensor or None
        The norm that scaled epsilon in the last step, None likewise.

    Raises
    ------
    TypeError
        If the base optimizer is not an optimizer class, or an argument has the
        wrong type.
    ValueError
        If there are no parameters, an argument is out of its range, the base
        optimizer needs a closure (``LBFGS``), or each process has a part of the
        parameters only (``ZeroRedundancyOptimizer``, ``FullyShardedDataParallel``).

    See Also
    --------
    braindecode_sam.SAMCallback : Schedules rho and records the sharpness in skorch.
    braindecode_sam.optim.GSAM, braindecode_sam.optim.FriendlySAM : Variants.

    Notes
    -----
    The closure computes the whole gradient of a step: it is dropped between the two
    passes. Weight decay is the base optimizer's alone.

    If a pass raises, even ``KeyboardInterrupt`` or out of memory, weights, buffers and
    what a variant remembers are rolled back. SIGINT is deferred while the optimizer
    runs, and delivered in the closure or at the end. A base optimizer that fails in
    its own ``step`` leaves what it leaves without SAM.

    ``step`` makes both passes by calling the closure twice. The second call finds the
    buffers of all modules that are called, and torch's random number generators, as
    the first one found them, and what it does to them is undone. Buffers that change
    without a call of a module (``module.forward(x)``, ``F.batch_norm``), and the values
    of sparse or quantized ones, are not preserved. Random numbers of NumPy and Python
    are not replayed. In the two-step form (``first_step``, ``second_step``) the passes
    are the caller's: there, only modules with a parameter of this optimizer are
    preserved, and the second pass draws new dropout masks.

    With ``maximize=True``, an option of torch's own optimizers, the perturbation
    descends.

    With ``torch.compile(module)`` torch warns once that global hooks fire an extra
    time. The hook is the one that preserves buffers; firing twice does no harm.

    References
    ----------
    Foret et al., 2021, https://doi.org/10.48550/arXiv.2010.01412; Kwon et al., 2021,
    https://doi.org/10.48550/arXiv.2102.11600.

    Examples
    --------
    >>> import torch
    >>> from braindecode_sam import SAM
    >>> _ = torch.manual_seed(0)
    >>> model = torch.nn.Linear(2, 1)
    >>> optimizer = SAM(model.parameters(), torch.optim.SGD, lr=0.1, momentum=0.9)
    >>> x, y = torch.ones(4, 2), torch.zeros(4, 1)
    >>> def closure():
    ...     optimizer.zero_grad()
    ...     loss = torch.nn.functional.mse_loss(model(x), y)
    ...     loss.backward()
    ...     return loss
    >>> before = optimizer.step(closure).item()
    >>> optimizer.step(closure).item() < before
    True
    """

    needs_closure = True
    # Options of a group, each with its check. A variant adds its own.
    _group_options: ClassVar[dict[str, Check]] = {
        "rho": check_non_negative,
        "adaptive": check_bool,
        "eta": check_non_negative,
        "perturbed": check_positions,
        "n_steps": check_non_negative,
    }
    # What those start with that are no arguments. They live in the groups because
    # groups survive every kind of checkpoint, torch.distributed's included.
    _initially: ClassVar[dict[str, Any]] = {"perturbed": None, "n_steps": 0}
    # Arguments of the whole optimizer, attributes of the same names.
    _optimizer_options: ClassVar[tuple[str, ...]] = ("interval",)

    defaults: Options
    param_groups: list[Options]  # type: ignore[assignment]  # each is a dict
    base_optimizer: Optimizer
    last_loss: Any
    last_perturbed_loss: Any
    last_grad_norm: Tensor | None
    _perturbed: list[FlatGroup]
    _undo_first_step: contextlib.ExitStack[bool | None] | None
    _is_in_step: bool

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
        check_base_optimizer(base_optimizer)
        self.interval = check_integer("interval", interval, 1)
        own = {"rho": rho, "adaptive": adaptive, "eta": eta, **self._initially}
        own |= {k: base_kwargs.pop(k) for k in self._group_options if k not in own}
        for name, check in self._group_options.items():
            check(name, own[name])
        params = check_params(params)
        groups = [_split(p, own, self._checks()) for p in params if isinstance(p, dict)]
        if groups:
            params = [group.base for group in groups]
        # The base optimizer reads its arguments as it would alone.
        arguments = [*inspect.signature(type(self)).parameters, *self._checks()]
        check_base_options(type(self).__name__, arguments, base_optimizer, base_kwargs)
        base = base_optimizer(params, **strip_prefix(base_kwargs))
        for group in groups:
            warn_of_misspelt(group.base, [*self._checks(), *base.defaults])
        self.base_optimizer = base
        self._own_of_new = [group.own for group in groups]
        state = base.state  # Adagrad makes its own in its constructor
        super().__init__(base.param_groups, Options(own, base.defaults, self._checks()))
        self.state = state  # torch's constructor begins with an empty one
        check_not_in_shards(base, self._params())
        self._reset_transient_state()
        self.register_state_dict_post_hook(_spell_as_saved)

    def __repr__(self) -> str:
        name, base = type(self).__name__, type(self.base_optimizer).__name__
        rhos = list(dict.fromkeys(group["rho"] for group in self.param_groups))
        rho = rhos[0] if len(rhos) == 1 else rhos
        head = f"{name}({base}, rho={rho}, interval={self.interval}) ("
        return super().__repr__().replace(f"{name} (", head, 1)

    @property
    def state(self) -> Any:
        """State of each parameter: the base optimizer's, and what a variant adds."""
        return self.base_optimizer.state

    @state.setter
    def state(self, state: Any) -> None:
        self.base_optimizer.state = state

    @property
    def n_steps(self) -> int:
        """Number of steps made."""
        return self.param_groups[0].own["n_steps"]

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, with options of this and of the base optimizer.

        Parameters
        ----------
        param_group : dict
            As for any torch optimizer, with ``rho``, ``adaptive`` and ``eta``.
        """
        position, groups = len(self.param_groups), self.base_optimizer.param_groups
        own = {**self.defaults.own, "n_steps": self.n_steps if position else 0}
        if position < len(groups):  # torch's constructor, with the base's own groups
            own = self._own_of_new[position] if self._own_of_new else own
        else:
            if isinstance(param_group, dict):  # else the base optimizer says it is not
                new = _split(param_group, own, self._checks())
                own, param_group = new.own, new.base
                known = [*self._checks(), *self.base_optimizer.defaults]
                warn_of_misspelt(param_group, known)
            self.base_optimizer.add_param_group(param_group)
        self.param_groups.append(Options(own, groups[position], self._checks()))

    @_hooked_if_observed
    @torch.no_grad()
    def step(self, closure: Callable[[], Loss] | None = None) -> Loss | None:
        """Make one step.

        Parameters
        ----------
        closure : callable
            Zeroes the gradients, runs forward and backward and returns the loss.
            Called twice, or once if this step is not perturbed.

        Returns
        -------
        loss : torch.Tensor
            Loss at the unperturbed weights, as the closure returned it.

        Raises
        ------
        TypeError
            If there is no closure, unless all gradients are zero: then no other pass
            is needed. (``torch.distributed.checkpoint`` steps like that to build the
            state; such a step does not count.)
        RuntimeError
            If called between ``first_step`` and ``second_step``, or in its own closure.
        """
        self._refuse_within_two_steps("step")
        if closure is None:
            self._step_without_closure()
            return None
        if self._is_in_step:
            raise RuntimeError(
                f"{type(self).__name__}.step was called inside of its own closure;"
                " expected a closure that makes one pass."
            )
        return self._step(closure)

    def _step(self, closure: Callable[[], Loss]) -> Loss:
        with DeferSigint() as sigint:

            def run_pass() -> Loss:
                with torch.enable_grad():
                    return sigint.call(closure)

            preserve = preserve_buffers(self._buffer_cache, sigint.closed)
            self._is_in_step = True
            try:
                with preserve as self._buffers:
                    loss = self._run_passes(run_pass)
                    self._combine_gradients()
                self._base_step()
            finally:
                self._is_in_step = False
        return loss

    # The stages of a step, in their order. A variant overrides one or two of them.

    def _run_passes(self, run_pass: Callable[[], Loss]) -> Loss:
        """Make the passes; return the loss of the clean one."""
        self._begin_step()
        if not self._should_perturb():
            self.last_loss = detached(loss := run_pass())
            return loss
        states = rng_states(self._devices())
        self.last_loss = detached(loss := run_pass())
        if self._needs_second_pass():
            self._buffers.rewind()
            self._perturb()
            try:
                for p in self._params():
                    p.grad = None  # a closure that does not zero would add to it
                with replay_rng(states):
                    self.last_perturbed_loss = detached(run_pass())
            finally:
                self._unperturb()
        return loss

    def _should_perturb(self) -> bool:
        """Whether this step may be perturbed, before any pass."""
        has_radius = any(group.own["rho"] for group in self.param_groups)
        return has_radius and self.n_steps % self.interval == 0

    def _needs_second_pass(self) -> bool:
        """Whether the clean gradients are worth a second pass."""
        return True

    def _perturb(self) -> None:
        self._flat.update(
            [(g, self._with_direction(chosen_params(g))) for g in self.param_groups]
        )
        try:
            self._ascend(self._flat.groups)
            forget_cached_weights()
        except BaseException:
            self._unperturb()
            raise

    def _unperturb(self) -> None:
        perturbed, self._perturbed = self._perturbed, []
        try:
            for group in perturbed:
                group.restore()
        except BaseException:  # one failure must not leave the weights perturbed
            for group in perturbed:
                group.restore()
            raise
        finally:
            forget_cached_weights()

    def _ascend(self, groups: Sequence[FlatGroup]) -> None:
        """Move the weights to w + epsilon."""
        self._has_ascended = True
        directions, norms = [], []
        for group in groups:
            direction = self._ascent_direction(group)
            magnitude = group.magnitude() if group.options.own["adaptive"] else None
            if magnitude is not None:  # the norm is that of T g
                direction = list(torch._foreach_mul(direction, magnitude))
            norms.append(group.norm(direction))
            if magnitude is not None:  # the step goes along T^2 g
                torch._foreach_mul_(direction, magnitude)
            directions.append(direction)
        self.last_grad_norm = joint_norm(norms) if norms else torch.zeros(())
        for group, direction in zip(groups, directions, strict=True):
            if group.options.own["rho"]:
                group.save()
                self._perturbed.append(group)
                group.perturb(direction, self.last_grad_norm)

    def _with_direction(self, params: Iterable[Tensor]) -> list[Tensor]:
        """Return the parameters that have a direction of ascent."""
        return with_gradient(params)

    def _ascent_direction(self, group: FlatGroup) -> Tensors:
        """Return where the ascent goes, in the shapes of the group's weights."""
        return group.gradients()

    def _combine_gradients(self) -> None:
        """Leave in the gradients what the base optimizer descends along."""

    def _base_step(self) -> None:
        base = self.base_optimizer
        step = type(base).step
        if getattr(step, "__code__", None) is _HOOKED:
            step = vars(step)["__wrapped__"]  # global hooks run once, for this step
        for hook in base._optimizer_step_pre_hooks.values():
            hook(base, (), {})
        step(base)
        for hook in base._optimizer_step_post_hooks.values():
            hook(base, (), {})
        vars(base)["_opt_called"] = True  # what a scheduler on the base asks for
        n_steps = self.n_steps + 1
        for group in self.param_groups:
            group.own["n_steps"] = n_steps

    def _step_without_closure(self) -> None:
        if not vanish(p.grad for p in self._params()):
            raise TypeError(
                "SAM.step needs a closure that zeroes the gradients, runs forward and"
                " backward and returns the loss, since it makes two passes. Without"
                " one, call first_step() and second_step() around the second pass;"
                " under skorch's AccelerateMixin, use SAMAccelerateMixin."
            )
        n_steps = self.n_steps
        self._begin_step()
        self._ascend([])
        self._combine_gradients()
        self._base_step()
        for group in self.param_groups:
            group.own["n_steps"] = n_steps

    # The explicit form, for loops that make the passes themselves.

    @torch.no_grad()
    def first_step(self, zero_grad: bool = False) -> None:
        """Move the weights to w + epsilon, from the gradients at w.

        Parameters
        ----------
        zero_grad : bool, default=False
            Zero the gradients afterwards.

        Raises
        ------
        RuntimeError
            If ``second_step`` or ``restore`` has not followed the last call.
        """
        self._refuse_within_two_steps("first_step")
        self._begin_step()
        with DeferSigint(), contextlib.ExitStack() as undo:
            params = self._params()
            preserve = preserve_buffers(self._buffer_cache, DeferSigint, params)
            undo.enter_context(preserve)
            if self._should_perturb() and self._needs_second_pass():
                self._perturb()
                undo.callback(self._unperturb)
            self._undo_first_step = undo.pop_all()
        if zero_grad:
            self.zero_grad()

    @_hooked_if_observed
    @torch.no_grad()
    def second_step(self, zero_grad: bool = False) -> None:
        """Return to w and let the base optimizer step on the present gradients.

        Parameters
        ----------
        zero_grad : bool, default=False
            Zero the gradients afterwards.

        Raises
        ------
        RuntimeError
            If ``first_step`` was not called before.
        """
        if self._undo_first_step is None:
            raise RuntimeError("second_step was called without a first_step before it.")
        with DeferSigint():
            self.restore()
            self._combine_gradients()
            self._base_step()
        self._opt_called = True  # what a scheduler's wrapper of step() would set
        if zero_grad:
            self.zero_grad()

    @torch.no_grad()
    def restore(self) -> None:
        """Go back from w + epsilon to w without a step.

        For a two-step loop whose second pass failed. Does nothing elsewhere.
        """
        undo, self._undo_first_step = self._undo_first_step, None
        if undo is not None:
            with DeferSigint():
                undo.close()

    def _refuse_within_two_steps(self, name: str) -> None:
        if self._undo_first_step is not None:
            raise RuntimeError(
                f"{name} was called between first_step and second_step. Call"
                " second_step() first, or restore() to go back to the weights before."
            )

    # What is perturbed.

    def perturb_only(self, params: Iterable[Tensor] | None = None) -> None:
        """Restrict the perturbation to some parameters.

        Unlike ``rho=0`` in a group, this also leaves the others out of the norm,
        so that the perturbation keeps its radius.

        Parameters
        ----------
        params : iterable of torch.Tensor or None, default=None
            Parameters to perturb; None means all.

        Raises
        ------
        ValueError
            If no parameter of this optimizer is among them.
        """
        if params is None:
            for group in self.param_groups:
                group["perturbed"] = None
            return
        chosen = {id(p) for p in params}
        positions = [
            [i for i, p in enumerate(group["params"]) if id(p) in chosen]
            for group in self.param_groups
        ]
        if not any(positions):
            raise ValueError(
                f"params holds {len(chosen)} tensors, none of them a parameter of"
                " this optimizer; expected some of its own parameters."
            )
        for group, some in zip(self.param_groups, positions, strict=True):
            group["perturbed"] = some

    # Saving, loading and copying. What torch does itself is left to it.

    def __getstate__(self) -> dict[str, Any]:
        if self._perturbed:
            raise RuntimeError(
                f"{type(self).__name__} was pickled or copied while its weights are"
                " perturbed. Copy it outside of the closure and, in a two-step loop,"
                " after second_step() or restore()."
            )
        return {
            "base_optimizer": self.base_optimizer,
            "own_defaults": self.defaults.own,
            "own_options": [group.own for group in self.param_groups],
            **{name: getattr(self, name) for name in self._optimizer_options},
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Unpickling comes here, and so does load_state_dict, between its hooks.
        base, checks = state.get("base_optimizer"), self._checks()
        if base is not None:
            state = dict(state)
            defaults = Options(state.pop("own_defaults"), base.defaults, checks)
            own = state.pop("own_options")
            super().__setstate__({**state, "defaults": defaults})
            self.register_state_dict_post_hook(_spell_as_saved)
        else:
            saved = zip(self.param_groups, state["param_groups"], strict=True)
            own, base_groups = zip(*(g.load(s) for g, s in saved), strict=True)
            base = self.base_optimizer
            base.__setstate__({**state, "param_groups": list(base_groups)})
        self.param_groups = [
            Options(*pair, checks) for pair in zip(own, base.param_groups, strict=True)
        ]
        self._reset_transient_state()

    # Bookkeeping.

    @classmethod
    def _checks(cls) -> dict[str, Check | None]:
        names = ("base_optimizer", *cls._optimizer_options)
        return {**cls._group_options, **dict.fromkeys(names)}

    def _begin_step(self) -> None:
        self._has_ascended = False
        self.last_loss = self.last_perturbed_loss = self.last_grad_norm = None

    def _reset_transient_state(self) -> None:
        self._flat = FlatGroups()
        self._buffer_cache = BufferCache()
        self._undo_first_step = None
        self._perturbed = []
        self._is_in_step = False
        self._begin_step()

    def _params(self) -> list[Tensor]:
        groups = self.base_optimizer.param_groups  # plain dicts, faster to read
        return [p for group in groups for p in group["params"]]

    def _devices(self) -> set[torch.device]:
        return set(map(operator.attrgetter("device"), self._params()))


def _split(group: dict[str, Any], own: dict[str, Any], checks: Any) -> Options:
    """Tell a new group's options of SAM from the base's."""
    options = Options(dict(own), {}, checks)
    is_own = {name: name in checks for name in group}
    options.update({k: v for k, v in group.items() if is_own[k]})
    options.base.update(strip_prefix({k: v for k, v in group.items() if not is_own[k]}))
    return options


def _spell_as_saved(optimizer: Any, state_dict: dict[str, Any]) -> dict[str, Any]:
    """Hold tensors and builtins only, and leave the base's options their names."""
    packed = zip(optimizer.param_groups, state_dict["param_groups"], strict=True)
    groups = [
        {
            **{name: as_builtin(value) for name, value in group.saved().items()},
            "params": saved["params"],
        }
        for group, saved in packed
    ]
    return {**state_dict, "param_groups": groups}


def detached(loss: Any) -> Any:
    """Return a loss without its graph; a number as it is."""
    return loss.detach() if isinstance(loss, Tensor) else loss
