"""Sharpness-Aware Minimization, the optimizer that the variants derive from."""

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

# Code of torch's wrapper of every `step`, which runs the hooks. It distinguishes the
# wrapper from the step itself.
_HOOKED_STEP_CODE = Optimizer.profile_hook_step(lambda optimizer: None).__code__


def _hooked_if_observed(step: Callable[..., Any]) -> Callable[..., Any]:
    """Run torch's wrapper of a step only if there are hooks or a profiler.

    Without them, the wrapper would take as long as the ascent of a small model.
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

    call.hooked = True  # type: ignore[attr-defined]  # keeps torch from wrapping it again
    return call


class SAM(Optimizer):
    r"""Sharpness-Aware Minimization around any optimizer of torch.

    SAM [1]_ minimizes the largest loss within the distance `rho` of the weights. Each
    step makes two passes, that is, it runs forward and backward twice on the same
    batch: at the weights w, and at w + epsilon, where the loss is larger. The base
    optimizer then updates w with the gradient of the second pass.

    Parameters
    ----------
    params : iterable
        Tensors, named tensors or parameter groups, as for any torch optimizer. A
        group may set its own ``rho``, ``adaptive`` and ``eta``. ``rho=0`` leaves the
        group's weights unperturbed, but its gradients still count in the norm.
    base_optimizer : type, default=torch.optim.AdamW
        Class of the optimizer that updates the weights, or a ``functools.partial`` of
        one. It must be able to step without a closure.
    rho : float, default=0.05
        Radius of the perturbation, in the units of the weights. If it is 0 in every
        group, a step is one plain pass and a step of the base optimizer.
    adaptive : bool, default=False
        Use ASAM's adaptive radius [2]_. Biases are not rescaled: parameters named
        "bias" or, where `params` have no names, those with fewer than two dimensions
        (which includes the weights of normalization layers).
    interval : int, default=1
        Perturb on every `interval`-th step, starting with the first.
    eta : float, default=0.01
        Added to the weights' magnitude if `adaptive`.
    **base_kwargs
        Options of the base optimizer. If SAM has an option of the same name, as with
        Adadelta's ``rho``, write ``base_optimizer__rho``. The prefix works for every
        option. skorch passes ``optimizer__base_optimizer__betas`` in this form.

    Attributes
    ----------
    base_optimizer : torch.optim.Optimizer
        The base optimizer. It shares ``state`` with this optimizer. Its
        ``param_groups`` hold the options of this optimizer's groups that are not
        SAM's.
    n_steps : int
        Number of steps made.
    last_loss, last_perturbed_loss : torch.Tensor or None
        Loss at w and at w + epsilon in the last step. The second is None if that step
        was not perturbed.
    last_grad_norm : torch.Tensor or None
        Norm that scaled epsilon in the last step. None if that step was not perturbed.

    Raises
    ------
    TypeError
        If the base optimizer is not an optimizer class, or an argument has the
        wrong type.
    ValueError
        If there are no parameters, an argument is out of its range, the base
        optimizer needs a closure (``LBFGS``), or each process holds only a part of the
        parameters (``ZeroRedundancyOptimizer``, ``FullyShardedDataParallel``).

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

    **Buffers and random numbers.** The second pass replays the first one at
    :math:`w + \epsilon`. It starts from the same buffers and the same states of torch's
    random number generators, and its changes to them are undone. Otherwise it would
    update BatchNorm's running statistics a second time, from activations of the
    *perturbed* weights, and would draw other dropout masks, so that :math:`g` and
    :math:`g_p` would be gradients of two different functions. This holds for all
    modules that the closure calls. It does not cover buffers that change without a
    call of a module (``module.forward(x)``, ``F.batch_norm``), the values of sparse or
    quantized buffers, or the random numbers of NumPy and Python.

    **Gradients.** The closure must compute the whole gradient of a step, since
    gradients are dropped between the two passes.

    **Errors and interrupts.** If a pass raises, even ``KeyboardInterrupt`` or an
    out-of-memory error, then weights, buffers and the state that a variant keeps are
    rolled back. SIGINT is deferred while the optimizer runs and delivered in the
    closure or at the end of the step. If the base optimizer fails in its own ``step``,
    it leaves the same state as without SAM.

    **Two-step form.** :meth:`first_step` and :meth:`second_step` are for loops that
    make the passes themselves. In this form, SAM preserves only the buffers of modules
    that have a parameter of this optimizer, and the second pass draws new dropout
    masks.

    **Compilation.** With ``torch.compile(module)``, torch warns once that global hooks
    fire an extra time. The hook in question preserves buffers, and firing twice does no
    harm.

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

    The same step in a loop that makes both passes itself:

    >>> def backward():
    ...     torch.nn.functional.mse_loss(model(x), y).backward()
    >>> backward()
    >>> optimizer.first_step(zero_grad=True)
    >>> backward()
    >>> optimizer.second_step(zero_grad=True)
    >>> optimizer.n_steps
    3
    """

    needs_closure = True
    # Options of a parameter group, each with its check. A variant adds others.
    _group_options: ClassVar[dict[str, Check]] = {
        "rho": check_non_negative,
        "adaptive": check_bool,
        "eta": check_non_negative,
        "perturbed": check_positions,
        "n_steps": check_non_negative,
    }
    # Initial values of the options that are not arguments. They are in the groups
    # because every kind of checkpoint, including torch.distributed's, saves groups.
    _initial_values: ClassVar[dict[str, Any]] = {"perturbed": None, "n_steps": 0}
    # Arguments of the whole optimizer, stored as attributes of the same names.
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
        own = {"rho": rho, "adaptive": adaptive, "eta": eta, **self._initial_values}
        own |= {k: base_kwargs.pop(k) for k in self._group_options if k not in own}
        for name, check in self._group_options.items():
            check(name, own[name])
        params = check_params(params)
        groups = [_split(p, own, self._checks()) for p in params if isinstance(p, dict)]
        if groups:
            params = [group.base for group in groups]
        # The base optimizer checks its arguments as it does without SAM.
        arguments = [*inspect.signature(type(self)).parameters, *self._checks()]
        check_base_options(type(self).__name__, arguments, base_optimizer, base_kwargs)
        base = base_optimizer(params, **strip_prefix(base_kwargs))
        for group in groups:
            warn_of_misspelt(group.base, [*self._checks(), *base.defaults])
        self.base_optimizer = base
        self._own_of_new = [group.own for group in groups]
        state = base.state  # Adagrad fills it in its constructor
        super().__init__(base.param_groups, Options(own, base.defaults, self._checks()))
        self.state = state  # torch's constructor has set an empty one
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
        """State of each parameter: the base optimizer's and what a variant adds."""
        return self.base_optimizer.state

    @state.setter
    def state(self, state: Any) -> None:
        self.base_optimizer.state = state

    @property
    def n_steps(self) -> int:
        """Number of steps made."""
        return self.param_groups[0].own["n_steps"]

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group.

        Parameters
        ----------
        param_group : dict
            As for any torch optimizer. It may set options of the base optimizer and
            ``rho``, ``adaptive`` and ``eta``.
        """
        position, groups = len(self.param_groups), self.base_optimizer.param_groups
        own = {**self.defaults.own, "n_steps": self.n_steps if position else 0}
        if position < len(groups):  # torch's constructor adds the base's groups
            own = self._own_of_new[position] if self._own_of_new else own
        else:
            if isinstance(param_group, dict):  # otherwise the base optimizer raises
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
            Zeroes the gradients, runs forward and backward, and returns the loss. It
            is called twice, or once if the step is not perturbed.

        Returns
        -------
        loss : torch.Tensor
            Loss at the unperturbed weights, as returned by the closure.

        Raises
        ------
        TypeError
            If there is no closure. The exception is a step whose gradients are all
            zero, with which ``torch.distributed.checkpoint`` builds the state. It
            needs no second pass and is not counted in ``n_steps``.
        RuntimeError
            If called between ``first_step`` and ``second_step``, or in its own closure.
        """
        self._refuse_within_two_steps("step")
        if closure is None:
            self._step_without_closure()
            return None
        if self._is_in_step:
            raise RuntimeError(
                f"{type(self).__name__}.step was called inside its own closure;"
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

    # The stages of a step, in order. A variant overrides one or two of them.

    def _run_passes(self, run_pass: Callable[[], Loss]) -> Loss:
        """Make the passes and return the loss of the clean one."""
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
                    p.grad = None  # in case the closure does not zero it
                with replay_rng(states):
                    self.last_perturbed_loss = detached(run_pass())
            finally:
                self._unperturb()
        return loss

    def _should_perturb(self) -> bool:
        """Whether this step may be perturbed. Called before the first pass."""
        has_radius = any(group.own["rho"] for group in self.param_groups)
        return has_radius and self.n_steps % self.interval == 0

    def _needs_second_pass(self) -> bool:
        """Whether to make a second pass, given the clean gradients."""
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
            # T and its square in ASAM's formula
            magnitude = group.magnitude() if group.options.own["adaptive"] else None
            if magnitude is not None:  # the norm is that of T g
                direction = list(torch._foreach_mul(direction, magnitude))
            norms.append(group.norm(direction))
            if magnitude is not None:  # the direction is T^2 g
                torch._foreach_mul_(direction, magnitude)
            directions.append(direction)
        self.last_grad_norm = joint_norm(norms) if norms else torch.zeros(())
        for group, direction in zip(groups, directions, strict=True):
            if group.options.own["rho"]:
                group.save()
                self._perturbed.append(group)
                group.perturb(direction, self.last_grad_norm)

    def _with_direction(self, params: Iterable[Tensor]) -> list[Tensor]:
        """Return the parameters that have an ascent direction."""
        return with_gradient(params)

    def _ascent_direction(self, group: FlatGroup) -> Tensors:
        """Return the ascent direction, in the shapes of the group's weights."""
        return group.gradients()

    def _combine_gradients(self) -> None:
        """Replace the gradients by those that the base optimizer steps along."""

    def _base_step(self) -> None:
        base = self.base_optimizer
        step = type(base).step
        if getattr(step, "__code__", None) is _HOOKED_STEP_CODE:
            step = vars(step)["__wrapped__"]  # global hooks run once, for SAM's step
        for hook in base._optimizer_step_pre_hooks.values():
            hook(base, (), {})
        step(base)
        for hook in base._optimizer_step_post_hooks.values():
            hook(base, (), {})
        vars(base)["_opt_called"] = True  # schedulers of the base check it
        n_steps = self.n_steps + 1
        for group in self.param_groups:
            group.own["n_steps"] = n_steps

    def _step_without_closure(self) -> None:
        if not vanish(p.grad for p in self._params()):
            raise TypeError(
                "SAM.step needs a closure that zeroes the gradients, runs forward and"
                " backward and returns the loss, since it makes two passes. In a loop"
                " without a closure, call first_step() before and second_step() after"
                " the second pass. Under skorch's AccelerateMixin, use"
                " SAMAccelerateMixin."
            )
        n_steps = self.n_steps
        self._begin_step()
        self._ascend([])
        self._combine_gradients()
        self._base_step()
        for group in self.param_groups:
            group.own["n_steps"] = n_steps

    # The two-step form, for loops that make the passes themselves.

    @torch.no_grad()
    def first_step(self, zero_grad: bool = False) -> None:
        """Move the weights from w to w + epsilon.

        Call it after the first backward pass, with the gradients at w. Then run
        forward and backward again on the same batch and call :meth:`second_step`.

        Parameters
        ----------
        zero_grad : bool, default=False
            Zero the gradients afterwards. Otherwise the second backward pass
            accumulates into them.

        Raises
        ------
        RuntimeError
            If the last call was not followed by :meth:`second_step` or :meth:`restore`.

        See Also
        --------
        step : Make both passes with a closure.

        Notes
        -----
        If the step is not perturbed (``rho=0``, `interval`), the weights stay at w.
        The loop is the same.

        Examples
        --------
        >>> import torch
        >>> from braindecode_sam import SAM
        >>> model, x = torch.nn.Linear(2, 1), torch.ones(4, 2)
        >>> optimizer = SAM(model.parameters(), lr=1e-3)
        >>> model(x).square().mean().backward()
        >>> optimizer.first_step(zero_grad=True)
        >>> model(x).square().mean().backward()
        >>> optimizer.second_step(zero_grad=True)
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
        """Move the weights back to w and step with the current gradients.

        Call it after the second backward pass, with the gradients at w + epsilon.

        Parameters
        ----------
        zero_grad : bool, default=False
            Zero the gradients afterwards.

        Raises
        ------
        RuntimeError
            If :meth:`first_step` was not called before.

        See Also
        --------
        first_step : Move the weights to w + epsilon. Its example shows the loop.
        restore : Move the weights back to w without a step.
        """
        if self._undo_first_step is None:
            raise RuntimeError("second_step was called without a first_step before it.")
        with DeferSigint():
            self.restore()
            self._combine_gradients()
            self._base_step()
        self._opt_called = True  # set by a scheduler's wrapper of step()
        if zero_grad:
            self.zero_grad()

    @torch.no_grad()
    def restore(self) -> None:
        """Move the weights back to w without a step.

        For two-step loops whose second pass failed. It also restores the buffers that
        this pass changed. It does nothing if :meth:`first_step` was not called.

        See Also
        --------
        second_step : Move the weights back to w and make the step.
        """
        undo, self._undo_first_step = self._undo_first_step, None
        if undo is not None:
            with DeferSigint():
                undo.close()

    def _refuse_within_two_steps(self, name: str) -> None:
        if self._undo_first_step is not None:
            raise RuntimeError(
                f"{name} was called between first_step and second_step. Call"
                " second_step() first, or restore() to return to the unperturbed"
                " weights."
            )

    # Selection of what is perturbed.

    def perturb_only(self, params: Iterable[Tensor] | None = None) -> None:
        """Restrict the perturbation to some parameters.

        The other parameters do not count in the norm either, so that the perturbation
        keeps its radius. With ``rho=0`` in a group, its gradients still count.

        Parameters
        ----------
        params : iterable of torch.Tensor or None, default=None
            Parameters to perturb. None means all.

        Raises
        ------
        ValueError
            If `params` holds no parameter of this optimizer.

        Examples
        --------
        >>> import torch
        >>> from braindecode_sam import SAM
        >>> model = torch.nn.Sequential(
        ...     torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
        >>> optimizer = SAM(model.parameters(), lr=1e-3)
        >>> optimizer.perturb_only(model[1].parameters())
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
                f"params holds {len(chosen)} tensors, none of which is a parameter of"
                " this optimizer; expected some of its parameters."
            )
        for group, some in zip(self.param_groups, positions, strict=True):
            group["perturbed"] = some

    # Saving, loading and copying, where torch's own methods do not suffice.

    def __getstate__(self) -> dict[str, Any]:
        if self._perturbed:
            raise RuntimeError(
                f"{type(self).__name__} was pickled or copied while its weights were"
                " perturbed. Copy it outside the closure and, in a two-step loop,"
                " after second_step() or restore()."
            )
        return {
            "base_optimizer": self.base_optimizer,
            "own_defaults": self.defaults.own,
            "own_options": [group.own for group in self.param_groups],
            **{name: getattr(self, name) for name in self._optimizer_options},
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Called in unpickling, and by load_state_dict between its hooks.
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
        groups = self.base_optimizer.param_groups  # plain dicts are faster to read
        return [p for group in groups for p in group["params"]]

    def _devices(self) -> set[torch.device]:
        return set(map(operator.attrgetter("device"), self._params()))


def _split(group: dict[str, Any], own: dict[str, Any], checks: Any) -> Options:
    """Split the options of a new group into SAM's and the base optimizer's."""
    options = Options(dict(own), {}, checks)
    is_own = {name: name in checks for name in group}
    options.update({k: v for k, v in group.items() if is_own[k]})
    options.base.update(strip_prefix({k: v for k, v in group.items() if not is_own[k]}))
    return options


def _spell_as_saved(optimizer: Any, state_dict: dict[str, Any]) -> dict[str, Any]:
    """Reduce a state to tensors and builtins, with the base's names of its options."""
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
    """Return a loss without its graph. A number is returned as it is."""
    return loss.detach() if isinstance(loss, Tensor) else loss
