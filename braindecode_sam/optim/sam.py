r"""Sharpness-Aware Minimization.

With base optimizer B, loss L, weights w and radius rho, a step is::

    g       = grad L(w)                        closure, the clean pass
    epsilon = rho * g / ||g||                  ascend (adaptive: rho * T^2 g / ||T g||)
    g_p     = grad L(w + epsilon)              closure again, the perturbed pass
    w       = w                                restore, bit for bit
    w       = B(w, g_p)                        base step, weight decay included

The second pass sees the batch of the first one a second time. Left alone it would
also move BatchNorm's running statistics a second time, towards the statistics of
the *perturbed* weights, and draw other dropout masks, so that g_p and g would be
gradients of two different functions. Both are held: a SAM step leaves the buffers
and the random number generators exactly where one plain pass leaves them.

Foret, Kleiner, Mobahi, Neyshabur: Sharpness-Aware Minimization for Efficiently
Improving Generalization, ICLR 2021 (eq. 2 and Algorithm 1). Adaptive: Kwon, Kim,
Park, Choi: ASAM, ICML 2021 (eq. 8), with T = |w| + eta on weights and 1 on biases and
the shifts of normalization layers, as in its authors' code (others, and its eq. 8,
scale all of them). Both add the L2 penalty to L; here weight decay is the base
optimizer's alone, as AdamW's users expect.
"""

import operator
import typing

import torch
from torch.optim import Optimizer

from braindecode_sam._arguments import check_integer, check_non_negative
from braindecode_sam.optim._arguments import (
    GROUP_OPTIONS,
    as_builtin,
    check_base_optimizer,
    check_group,
    check_not_an_option,
    check_params,
    without_prefix,
)
from braindecode_sam.optim._memory import Memory
from braindecode_sam.optim._norm_stats import HeldBuffers
from braindecode_sam.optim._random import Replayed, random_states
from braindecode_sam.optim._transaction import Transaction
from braindecode_sam.optim._two_steps import TwoSteps
from braindecode_sam.optim._workspace import Workspace, joint_norm


class SAM(TwoSteps, Optimizer):
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
        Measure the radius relative to the weights (ASAM), not to biases and the like:
        parameters called "bias" where `params` are named, or else those with fewer
        than two dimensions (then the scales of normalization layers too).
    interval : int, default=1
        Perturb on every `interval`-th step, starting with the first.
    eta : float, default=0.01
        Added to the weights' magnitude where `adaptive`.
    **base_kwargs
        Handed to the base optimizer. ``base_optimizer__betas`` is accepted for
        ``betas``: skorch passes ``optimizer__base_optimizer__betas`` on like that.

    Attributes
    ----------
    base_optimizer : torch.optim.Optimizer
        Shares ``param_groups``, ``state`` and ``defaults`` with this optimizer.
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
        If there are no parameters, an argument is out of its range, or the base
        optimizer needs a closure (``LBFGS``).

    Notes
    -----
    A ``step`` that is left by an exception, Ctrl-C or lack of memory included, leaves
    weights, buffers and the optimizer's state as they were before it. Ctrl-C is held
    back outside of the closure.

    ``step`` makes both passes by calling the closure twice. In the two-step form
    (``first_step``, ``second_step``) the passes are the caller's: normalization
    statistics are held there too, but the second pass draws new dropout masks.

    With ``torch.compile(module)`` torch warns once that global hooks fire an extra
    time. The hook is the one that holds the statistics; firing twice does no harm.

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
    # What a variant adds: options of its groups and the checks of their values, and
    # attributes that a pickled copy takes along.
    variant_options: typing.ClassVar[dict] = {}
    variant_attributes = ()

    def __init__(
        self,
        params,
        base_optimizer=torch.optim.AdamW,
        *,
        rho=0.05,
        adaptive=False,
        interval=1,
        eta=0.01,
        **base_kwargs,
    ):
        check_base_optimizer(base_optimizer)
        self.interval = check_integer("interval", interval, 1)
        self.n_steps = 0
        self.memory = Memory()
        self._reset_transient_state()
        defaults = {"rho": rho, "adaptive": adaptive, "eta": eta, "perturbed": None}
        defaults |= {name: base_kwargs.pop(name) for name in self.variant_options}
        super().__init__(check_params(params), self._checked(defaults))
        self.base_optimizer = base_optimizer(
            self.param_groups, **without_prefix(base_kwargs)
        )
        self.base_optimizer.defaults.update(self.defaults)
        self._share_with_base()

    def add_param_group(self, param_group):
        """Add a group, with options of this and of the base optimizer.

        Parameters
        ----------
        param_group : dict
            As for any torch optimizer, with ``rho``, ``adaptive`` and ``eta``.
        """
        if isinstance(param_group, dict):
            options = {k: v for k, v in param_group.items() if k != "params"}
            params = param_group.get("params", [])
            param_group = {"params": params, **without_prefix(options)}
            self._checked({**self.defaults, **param_group})
        if "base_optimizer" in self.__dict__:
            self.base_optimizer.add_param_group(param_group)
        else:
            super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure=None):
        """Make one step.

        Parameters
        ----------
        closure : callable
            Zeroes the gradients, runs forward and backward and returns the loss.
            Called twice, or once if this step is not perturbed.

        Returns
        -------
        loss : torch.Tensor
            Loss at the unperturbed weights.

        Raises
        ------
        TypeError
            If there is no closure.
        RuntimeError
            If called between ``first_step`` and ``second_step``.
        """
        if closure is None:
            raise TypeError(
                "SAM.step needs a closure that zeroes the gradients, runs forward and"
                " backward and returns the loss, since it makes two passes. Without"
                " one, call first_step() and second_step() around the second pass;"
                " under skorch's AccelerateMixin, use SAMAccelerateMixin."
            )
        self._refuse_within_two_steps("step")
        with self._transaction.begin():
            loss, perturbed_loss = self._passes(closure)
            self._record(loss, perturbed_loss)
            self._mix()
            self._base_step()
        return loss

    def perturb_only(self, params=None):
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
        chosen = None if params is None else {id(p) for p in params}
        for group in self.param_groups:
            group["perturbed"] = None
            if chosen is not None:
                here = enumerate(group["params"])
                group["perturbed"] = [i for i, p in here if id(p) in chosen]
        if all(group["perturbed"] == [] for group in self.param_groups):
            self.perturb_only(None)
            raise ValueError(
                f"params holds {len(chosen)} tensors, none of them a parameter of"
                " this optimizer; expected some of its own parameters."
            )

    def state_dict(self):
        """State of this and of the base optimizer, in tensors and builtins only.

        Returns
        -------
        state_dict : dict
            ``state`` and ``param_groups`` as of any torch optimizer, and ``sam``
            with the number of steps made and what a variant remembers.
        """
        state_dict = super().state_dict()
        groups = [
            {name: as_builtin(value) for name, value in group.items()}
            for group in state_dict["param_groups"]
        ]
        memory = self.memory.state_dict(self._params())
        own = {"n_steps": self.n_steps, "memory": memory}
        return {**state_dict, "param_groups": groups, "sam": own}

    def load_state_dict(self, state_dict):
        """Load what `state_dict` gave; the state of the bare base optimizer will do.

        Parameters
        ----------
        state_dict : dict
            Of a SAM, or of a base optimizer alone: then ``rho`` and the like stay
            as they are.
        """
        saved = state_dict["param_groups"]
        options = [*GROUP_OPTIONS, *self.variant_options]
        ours = [{k: g[k] for k in options} for g in self.param_groups]
        ours += [{}] * (len(saved) - len(ours))  # torch refuses other numbers
        groups = [{**own, **group} for own, group in zip(ours, saved, strict=False)]
        super().load_state_dict({**state_dict, "param_groups": groups})
        own = state_dict.get("sam", {})
        self.n_steps = own.get("n_steps", 0)
        self.memory.load_state_dict(own.get("memory", {}), self._params())

    def __getstate__(self):
        own = ("base_optimizer", "interval", "n_steps", "memory")
        own += self.variant_attributes
        return super().__getstate__() | {name: getattr(self, name) for name in own}

    def __setstate__(self, state):
        # Unpickling and load_state_dict both come here and replace the containers.
        super().__setstate__(state)
        self._reset_transient_state()
        shared = {"state": self.state, "param_groups": self.param_groups}
        self.base_optimizer.__setstate__(shared)
        self._share_with_base()

    # Steps of the algorithm, in the order in which `step` takes them. A variant
    # overrides one or two of them.

    def _passes(self, closure):
        """Make the passes; give the loss of each, None for one that was not made."""
        self._has_ascended = self._perturbs()
        if not self._has_ascended:
            return self._pass(closure), None
        states = random_states(self._devices())
        loss = self._pass(closure)
        self._has_ascended = self._is_sharp()
        if not self._has_ascended:
            return loss, None
        return loss, self._perturbed_pass(closure, states)

    def _perturbs(self):
        """Tell whether this step may be perturbed, before any pass."""
        rhos = [group["rho"] for group in self.param_groups]
        # skorch's set_params writes to the groups, unchecked, whatever it is given.
        for rho in rhos:
            check_non_negative("rho", rho)
        for name in ("base_optimizer", "interval", *self.variant_attributes):
            check_not_an_option(name, self.param_groups)
        return any(rhos) and self.n_steps % self.interval == 0

    def _is_sharp(self):
        """Tell whether the clean gradients are worth a second pass."""
        return True

    def _pass(self, closure):
        with torch.enable_grad():
            return self._transaction.call(closure)

    def _perturbed_pass(self, closure, states):
        self._save()
        with Replayed(states), HeldBuffers():
            try:
                self._ascend()
                return self._pass(closure)
            finally:
                self._restore()

    def _save(self):
        self._workspace.update(self.param_groups)
        for segment in self._workspace.segments:
            segment.save()

    def _ascend(self):
        """Move the weights to w + epsilon."""
        segments = self._workspace.segments
        for segment in segments:
            segment.direction = self._direction(segment)
            if segment.group["adaptive"]:
                segment.scale_by_weights()  # T g, whose norm counts
        norm = joint_norm([segment.norm() for segment in segments])
        self.last_grad_norm = norm
        for segment in segments:
            if segment.group["adaptive"]:
                segment.scale_by_weights()  # T^2 g, along which to go
            if segment.group["rho"]:
                segment.perturb(norm)
            segment.direction = []  # the closure's zero_grad shall free these

    def _direction(self, segment):
        """Give the direction of the ascent, one tensor for each parameter."""
        return segment.read_gradients()

    def _restore(self):
        for segment in self._workspace.segments:
            segment.restore()

    def _mix(self):
        """Leave in the gradients what the base optimizer shall descend along."""

    def _base_step(self):
        self.base_optimizer.step()
        self.n_steps += 1

    # Bookkeeping.

    def _checked(self, group):
        for name, check in self.variant_options.items():
            check(name, group[name])
        return check_group(group)

    def _share_with_base(self):
        base = self.base_optimizer
        base.param_groups = self.param_groups
        self.defaults, self.state = base.defaults, base.state

    def _reset_transient_state(self):
        self._workspace = Workspace()
        self._transaction = Transaction(self)
        self._reset_two_steps()
        self.last_loss = self.last_perturbed_loss = self.last_grad_norm = None

    def _record(self, loss, perturbed_loss=None):
        self.last_loss = _detached(loss)
        self.last_perturbed_loss = _detached(perturbed_loss)
        if perturbed_loss is None:
            self.last_grad_norm = None

    def _params(self):
        return [p for group in self.param_groups for p in group["params"]]

    def _devices(self):
        return set(map(operator.attrgetter("device"), self._params()))


def _detached(loss):
    return loss.detach() if isinstance(loss, torch.Tensor) else loss
