"""A callback that averages the weights of a training (SWA and EMA)."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from numbers import Integral, Real
from typing import Any, Self

import numpy as np
import torch
from skorch.callbacks import Callback
from skorch.dataset import get_len, unpack_data
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import (
    get_ema_multi_avg_fn,
    get_swa_multi_avg_fn,
    update_bn,
)

from braindecode_sam._arguments import check_below_one, check_choice
from braindecode_sam._interrupts import DeferSigint
from braindecode_sam._random import (
    generator_states,
    own_generators,
    set_generator_states,
)
from braindecode_sam.optim._second_pass import PreservedBuffers

STARTS = {"ema": 0.0, "swa": 0.75}  # by kind, where `start` is None


class WeightAveraging(Callback):
    r"""Average the weights of a training, and validate and predict with the average.

    From the first validation on, the net holds the averaged weights wherever it is
    used: in the validation, in the scores and checkpoints of other callbacks, and after
    training. The training itself continues from its own weights. Its losses, its random
    numbers and the state of the optimizer are those of a training without this
    callback.

    Parameters
    ----------
    kind : {"ema", "swa"}, default="ema"
        "ema", the exponential moving average [2]_ [3]_, is updated after every batch.
        "swa", stochastic weight averaging [1]_, is the equal average of the weights
        after each epoch.
    decay : float, default=0.99
        Share of the average that an update keeps, at least 0 and less than 1, for "ema"
        only. The average reaches back over about ``1 / (1 - decay)`` batches. 0.99 fits
        trainings of some hundred batches, which are usual for EEG. With 0.999 the first
        weights would keep a share of 61 % after 500 batches.
    start : int, float or None, default=None
        Where averaging begins. An integer is an epoch, counted from 0. A float is a
        fraction of ``net.max_epochs``, at least 0 and less than 1, and is rounded to
        whole epochs. None is 0.0 for "ema", which forgets the first weights, and 0.75
        for "swa", which does not. Until then, the callback changes nothing.

    Attributes
    ----------
    averaged_ : dict of str to torch.Tensor, or None
        The average of each trainable parameter of the net's modules and criteria.
    n_averaged_ : int
        Number of weights in it: batches for "ema", epochs for "swa".
    training_ : dict of str to torch.Tensor, or None
        While the net holds the average, the weights and BatchNorm statistics from which
        training continues.

    Raises
    ------
    TypeError, ValueError
        When the net is initialized, if a parameter is not as described. ValueError when
        training begins, if the net has several of these callbacks.

    Warns
    -----
    UserWarning
        When training begins, if ``max_epochs`` does not reach `start`. When training
        ends, if it was stopped before `start`.

    See Also
    --------
    torch.optim.swa_utils.AveragedModel : The class of torch, which copies the module.

    Notes
    -----
    **Algorithm.** With weights :math:`w`, their average :math:`a`, and the number
    :math:`n` of weights in it, the update is

    .. math::

        a &\leftarrow \mathrm{decay} \cdot a + (1 - \mathrm{decay}) \, w
            \quad \text{(EMA)} \\
        a &\leftarrow \frac{n \, a + w}{n + 1} \quad \text{(SWA)}

    The first update sets :math:`a = w`. With BatchNorm's statistics :math:`s`, a
    training from epoch `start` on is

    .. code-block:: none

        each epoch:
            each batch:
                w = step(w)
                if ema: update a
            if swa: update a
            save w, s
            w = a
            s = statistics of the training windows at a
            validate, score, write checkpoints
            restore w, s

    For SWA, this is Algorithm 1 of [1]_ without its learning rate schedule.

    **Schedules.** SWA was proposed with a constant or cyclical learning rate from
    `start` on. This callback does not change the learning rate. Callbacks that monitor
    the validation loss, such as ``EarlyStopping``, monitor that of the average.

    **BatchNorm.** The running statistics at :math:`w` do not fit the averaged weights,
    since they are of other activations. The same holds for their average. The callback
    therefore computes new statistics in one forward pass over the training windows per
    epoch. The pass uses windows without augmentation and the batch size of the
    validation. It leaves everything else unchanged, including the random number
    generators. The windows are in a fixed random order. In the order of the data, a
    batch would often hold a single subject, whose windows vary less than those of all
    subjects. A last, smaller batch is left out. Dropout is active, as in training.
    Layers that stay in evaluation mode keep their statistics. Modules without BatchNorm
    need no pass.

    **Scores of training batches**, such as ``train_loss``, are those of the training's
    own weights.

    **Interrupts.** If training is interrupted within an epoch, the net holds the
    current average. For "swa" that is the average over whole epochs. If training fails,
    the net holds either the training's weights or the average, and never a mixture.

    **More training.** ``partial_fit``, and ``fit`` with ``warm_start=True``, continue
    from the training's own weights and from the current average. If the net was given
    other weights in between, by ``load_params`` or ``EarlyStopping(load_best=True)``,
    training continues from those and averaging starts again. It also starts again after
    ``set_params`` of any callback, which initializes all callbacks.

    **Gradient accumulation.** If a net steps once in several batches, `decay` refers to
    the batches.

    References
    ----------
    .. [1] P. Izmailov, D. Podoprikhin, T. Garipov, D. Vetrov, A. G. Wilson. "Averaging
       Weights Leads to Wider Optima and Better Generalization", UAI 2018.
       https://doi.org/10.48550/arXiv.1803.05407
    .. [2] B. T. Polyak, A. B. Juditsky. "Acceleration of Stochastic Approximation by
       Averaging", SIAM Journal on Control and Optimization 30(4), 1992.
       https://doi.org/10.1137/0330046
    .. [3] A. Tarvainen, H. Valpola. "Mean Teachers Are Better Role Models", NeurIPS
       2017. https://doi.org/10.48550/arXiv.1703.01780

    Examples
    --------
    >>> import numpy as np
    >>> from braindecode import EEGRegressor
    >>> from braindecode_sam import SAM
    >>> from braindecode_sam.callbacks import WeightAveraging
    >>> X = np.random.randn(8, 4, 100).astype("float32")
    >>> y = np.arange(8, dtype="float32")
    >>> net = EEGRegressor(
    ...     "FastEEGNeX", optimizer=SAM, max_epochs=4, batch_size=4,
    ...     verbose=0, train_split=None,
    ...     callbacks=[("swa", WeightAveraging("swa", start=1))])
    >>> _ = net.fit(X, y)
    >>> dict(net.callbacks_)["swa"].n_averaged_
    3
    """

    def __init__(
        self, kind: str = "ema", decay: float = 0.99, start: float | None = None
    ) -> None:
        self.kind = kind
        self.decay = decay
        self.start = start
        self.windows_ = _Windows()
        self._reset()

    def initialize(self) -> Self:
        """Check the parameters, and discard earlier averages."""
        check_choice("kind", self.kind, tuple(STARTS))
        check_below_one("decay", self.decay)
        _check_start(self.start)
        self._reset()
        return self

    def on_train_begin(
        self, net: Any, X: Any = None, y: Any = None, **kwargs: Any
    ) -> None:
        """Become the first callback."""
        _check_is_alone(net.callbacks_)
        first = self._first_epoch(net.max_epochs)
        self.windows_.has_warned = first >= len(net.history) + net.max_epochs
        if self.windows_.has_warned:
            warnings.warn(
                f"Averaging begins in epoch start={self.start!r}, counted from 0, which"
                f" is not reached with max_epochs={net.max_epochs}. No weights are"
                " averaged.",
                stacklevel=2,
            )
        # A new list, as skorch is iterating over the current one.
        net.callbacks_ = sorted(net.callbacks_, key=lambda named: named[1] is not self)
        self.windows_.dataset = None

    def on_epoch_begin(
        self,
        net: Any,
        dataset_train: Any = None,
        dataset_valid: Any = None,
        **kwargs: Any,
    ) -> None:
        """Restore the training's own weights."""
        if self.windows_.dataset is None:  # this is the first epoch of a training
            self._reset_if_replaced(net)
        self._restore_training(net)
        self.windows_.dataset = dataset_train

    def on_batch_begin(
        self, net: Any, batch: Any = None, training: bool | None = None, **kwargs: Any
    ) -> None:
        """Load the average before the first batch of the validation."""
        if training:
            # ResumableCheckpoint restores these attributes after on_epoch_begin.
            self._restore_training(net)
            self._add_unfrozen(net)
        elif self.windows_.dataset is not None:
            self._end_steps(net)

    def on_batch_end(
        self, net: Any, batch: Any = None, training: bool | None = None, **kwargs: Any
    ) -> None:
        """Update the moving average, after the optimizer's step."""
        if training and self.kind == "ema" and self._has_started(net):
            self._update(net)

    def on_epoch_end(
        self,
        net: Any,
        dataset_train: Any = None,
        dataset_valid: Any = None,
        **kwargs: Any,
    ) -> None:
        """Load the average, if there was no validation."""
        self._end_steps(net)

    def on_train_end(
        self, net: Any, X: Any = None, y: Any = None, **kwargs: Any
    ) -> None:
        """Leave the average in the net, even after an interrupt within an epoch."""
        if self.windows_.dataset is not None:
            self._load_average(net)
            is_early = self.averaged_ is None and not self._has_started(net)
            if is_early and not self.windows_.has_warned:
                warnings.warn(
                    f"Training ended after {len(net.history)} epochs, before averaging"
                    f" began with start={self.start!r}. No weights are averaged.",
                    stacklevel=2,
                )
        self.windows_.dataset = None

    def __getstate__(self) -> dict[str, Any]:
        # skorch maps the devices of modules and optimizers, but not of callbacks.
        on_cpu = {"averaged_": _cpu(self.averaged_), "training_": _cpu(self.training_)}
        return {**self.__dict__, **on_cpu, "windows_": _Windows()}

    def _reset(self) -> None:
        self.averaged_: dict[str, Tensor] | None = None
        self.n_averaged_ = 0
        self.training_: dict[str, Tensor] | None = None

    def _reset_if_replaced(self, net: Any) -> None:
        """Reset if the net no longer holds the average that was left in it."""
        if self.training_ is None or self.averaged_ is None:
            return
        params = _params(net)
        is_there = params.keys() >= self.averaged_.keys() and all(
            torch.equal(params[name], average.to(params[name].device))
            for name, average in self.averaged_.items()
        )
        if not is_there:
            self._reset()

    def _first_epoch(self, max_epochs: int) -> int:
        start = STARTS[self.kind] if self.start is None else self.start
        if isinstance(start, Integral):
            return int(start)
        return min(round(start * max_epochs), max_epochs - 1)

    def _has_started(self, net: Any) -> bool:
        return len(net.history) - 1 >= self._first_epoch(net.max_epochs)

    def _end_steps(self, net: Any) -> None:
        """Finish the steps of an epoch, and load the average."""
        if self.training_ is None and self._has_started(net):
            if self.kind == "swa":
                self._update(net)
            self._load_average(net)

    @torch.no_grad()
    def _update(self, net: Any) -> None:
        params = _params(net)
        with DeferSigint():
            if self.averaged_ is None:
                self.averaged_ = _copies(_trainable(params))
            else:
                # After a checkpoint was read, the average is on the CPU.
                averaged = {
                    n: a.to(params[n].device) for n, a in self.averaged_.items()
                }
                current = [params[name] for name in averaged]
                self._average()(list(averaged.values()), current, self.n_averaged_)
                self.averaged_ = averaged
            self.n_averaged_ += 1

    def _average(self) -> Any:
        is_ema = self.kind == "ema"
        return get_ema_multi_avg_fn(self.decay) if is_ema else get_swa_multi_avg_fn()

    def _add_unfrozen(self, net: Any) -> None:
        """Begin averages of parameters that were frozen until now."""
        if self.averaged_ is not None:
            params = _trainable(_params(net))
            new = {n: p for n, p in params.items() if n not in self.averaged_}
            self.averaged_ |= _copies(new)

    @torch.no_grad()
    def _load_average(self, net: Any) -> None:
        """Replace the training's weights and statistics by those of the average."""
        if self.training_ is not None or self.averaged_ is None:
            return
        params, statistics = _params(net), _statistics(net)
        before = {name: params[name] for name in self.averaged_} | statistics
        with DeferSigint() as sigint:
            self.training_ = _copies(before)
            try:
                for name, average in self.averaged_.items():
                    params[name].copy_(average)
                if statistics:
                    _estimate_statistics(net, self.windows_, sigint.call)
            except BaseException:  # not even an interrupt may leave a mixture
                self._restore_training(net)
                raise

    @torch.no_grad()
    def _restore_training(self, net: Any) -> None:
        if self.training_ is None:
            return
        tensors = _params(net) | _statistics(net)
        with DeferSigint():
            for name, value in self.training_.items():
                # In place, as optimizers hold these tensors.
                tensors[name].copy_(value)
            self.training_ = None


class _Windows:
    """The training windows of the current fit.

    They are in an object of a class so that ResumableCheckpoint does not save them.
    """

    def __init__(self) -> None:
        self.dataset: Any = None
        self.has_warned = False  # that no weights will be averaged

    def inputs(self, net: Any) -> Iterator[tuple[Any]]:
        """Yield the inputs of all whole batches, without augmentation.

        They are in a fixed random order.
        """
        dataset = self.dataset
        if not isinstance(dataset, torch.utils.data.IterableDataset):
            order = np.random.default_rng(0).permutation(len(dataset))
            dataset = torch.utils.data.Subset(dataset, order.tolist())
        largest = 0
        for batch in net.get_iterator(dataset, training=False):
            X, _ = unpack_data(batch)
            if get_len(X) >= largest:
                largest = get_len(X)
                yield (X,)


def _check_start(start: Any) -> None:
    if start is None:
        return
    message = (
        "start must be an epoch, an integer >= 0, or a fraction of max_epochs, a float"
        f" >= 0 and < 1, or None; got {start!r}"
    )
    if not isinstance(start, Real) or isinstance(start, bool):
        raise TypeError(message)
    if not (float(start) >= 0 and (float(start) < 1 or isinstance(start, Integral))):
        raise ValueError(message)


def _check_is_alone(callbacks: list[tuple[str, Any]]) -> None:
    names = [name for name, c in callbacks if isinstance(c, WeightAveraging)]
    if len(names) > 1:
        raise ValueError(
            f"The net has {len(names)} WeightAveraging callbacks:"
            f" {', '.join(map(repr, names))}. Expected one, since each would treat the"
            " other's average as the weights of the training."
        )


def _modules(net: Any, names: list[str]) -> dict[str, torch.nn.Module]:
    parts = {name: getattr(net, name + "_") for name in names}
    return {n: part for n, part in parts.items() if isinstance(part, torch.nn.Module)}


def _params(net: Any) -> dict[str, Tensor]:
    """Return the parameters of a net by name. A shared parameter has one name."""
    seen: dict[Tensor, str] = {}
    for part, module in _modules(net, [*net._modules, *net._criteria]).items():
        for name, param in module.named_parameters():
            seen.setdefault(param, f"{part}.{name}")
    return {name: param for param, name in seen.items()}


def _trainable(params: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: param for name, param in params.items() if param.requires_grad}


def _norm_layers(net: Any) -> dict[str, _BatchNorm]:
    return {
        f"{part}.{name}": layer
        for part, module in _modules(net, net._modules).items()
        for name, layer in module.named_modules()
        if isinstance(layer, _BatchNorm)
    }


def _statistics(net: Any) -> dict[str, Tensor]:
    """Return the running statistics and batch counts of BatchNorm layers by name."""
    return {
        f"{place}.{name}": buffer
        for place, layer in _norm_layers(net).items()
        for name, buffer in layer.named_buffers(recurse=False)
    }


def _copies(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def _cpu(tensors: dict[str, Tensor] | None) -> dict[str, Tensor] | None:
    return None if tensors is None else {n: t.cpu() for n, t in tensors.items()}


# The pass that computes BatchNorm's statistics


def _estimate_statistics(net: Any, windows: _Windows, call: Any) -> None:
    """Set BatchNorm's statistics. `call` runs functions that may be interrupted."""
    with _everything_restored(net):
        inference = _Inference(net).train()
        call(lambda: update_bn(windows.inputs(net), inference))
        found = {
            place: _copies(dict(layer.named_buffers(recurse=False)))
            for place, layer in _norm_layers(net).items()
            if layer.num_batches_tracked  # otherwise the pass did not reach it
        }
    for place, layer in _norm_layers(net).items():
        for name, value in found.get(place, {}).items():
            layer.get_buffer(name).copy_(value)


class _Inference(torch.nn.Module):
    """All modules of a net as one module that calls ``net.infer``."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.parts = torch.nn.ModuleList(_modules(net, net._modules).values())
        self.infer = net.infer

    def forward(self, x: Any) -> Any:
        return self.infer(x)

    def modules(self, *args: Any, **kwargs: Any) -> Iterator[torch.nn.Module]:
        """Yield the modules that are in training mode.

        torch's update_bn would reset the statistics of layers that stay in evaluation
        mode, and no batch would update them again.
        """
        return (m for m in super().modules(*args, **kwargs) if m.training)


@contextlib.contextmanager
def _everything_restored(net: Any) -> Iterator[None]:
    """Restore everything that a pass changes, even if it fails."""
    modules = _modules(net, net._modules).values()
    modes = [(layer, layer.training) for part in modules for layer in part.modules()]
    momenta = [(layer, layer.momentum) for layer in _norm_layers(net).values()]
    # braindecode's iterators store the indices of the last windows on the net.
    attributes = dict(vars(net))
    own = [container[key] for container, key in own_generators(net)]
    states = [generator.get_state() for generator in own]
    global_states = generator_states()
    try:
        with PreservedBuffers() as buffers:
            for module in modules:  # update_bn resets them before it calls a module
                buffers.save(module)
            yield
    finally:
        for layer, mode in modes:
            layer.training = mode
        for norm, momentum in momenta:
            norm.momentum = momentum
        vars(net).update(attributes)
        for generator, state in zip(own, states, strict=True):
            generator.set_state(state)
        set_generator_states(global_states)
