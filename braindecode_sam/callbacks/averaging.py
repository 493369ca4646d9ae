r"""A callback that averages the weights of a training: SWA and EMA.

With weights w, their average a, the number n of weights in it, and the statistics s of
BatchNorm, a training from epoch `start` on is::

    each epoch:
        each batch:
            w = step(w)                             SAM's base step included
            ema: average(w)
        swa: average(w)
        keep w, s                                   validation, scores, checkpoints
        w = a
        s = statistics of the training windows at a
        validate
        w, s = kept                                 before the next epoch

    average(w):
        n = 0:  a = w
        ema:    a = decay a + (1 - decay) w
        swa:    a = (n a + w) / (n + 1)
        n = n + 1

Averaged weights need statistics of their own: those of w belong to other activations,
and their average is not the statistics at the average. One pass without gradients over
the training windows gives them. This pass leaves everything else as it is, the random
number generators too, so that w takes the way that it takes without this callback.

Izmailov, Podoprikhin, Garipov, Vetrov, Wilson: Averaging Weights Leads to Wider Optima
and Better Generalization, UAI 2018 (Algorithm 1, without its learning rate schedule).
"""

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

from braindecode_sam._arguments import check_choice, check_non_negative
from braindecode_sam.callbacks._generators import (
    generator_states,
    own_generators,
    set_generator_states,
)
from braindecode_sam.optim._second_pass import BufferCache, DeferSigint

STARTS = {"ema": 0.0, "swa": 0.75}  # by kind, where `start` is None


class WeightAveraging(Callback):
    """Average the weights of a training, and validate and predict with the average.

    From the first validation on, the net holds the averaged weights wherever it is
    used: in the validation, in the scores and checkpoints of other callbacks, and after
    training. The training itself goes on from its own weights. Its losses, its random
    numbers and the state of the optimizer are those of a training without this
    callback.

    Parameters
    ----------
    kind : {"ema", "swa"}, default="ema"
        "ema", the exponential moving average, is updated after every batch. "swa",
        stochastic weight averaging, is the equal average of the weights after each
        epoch.
    decay : float, default=0.99
        Share of the average that an update keeps, at least 0 and less than 1; for "ema"
        only. The average reaches back over about ``1 / (1 - decay)`` batches. 0.99 fits
        trainings of some hundred batches, which are usual for EEG. With 0.999 the first
        weights would keep a share of 61 % after 500 batches.
    start : int, float or None, default=None
        Where averaging begins. An integer is an epoch, counted from 0. A float is a
        fraction of ``net.max_epochs``, at least 0 and less than 1, and is rounded to
        whole epochs. None is 0.0 for "ema", which forgets the first weights, and 0.75
        for "swa", which does not. Until then the net is as without this callback.

    Attributes
    ----------
    averaged_ : dict of str to torch.Tensor, or None
        The average of each trainable parameter of the net's modules and criteria.
    n_averaged_ : int
        Number of weights in it: batches for "ema", epochs for "swa".
    training_ : dict of str to torch.Tensor, or None
        While the net holds the average, the weights and BatchNorm's statistics that
        training goes on from.

    Raises
    ------
    TypeError, ValueError
        When the net is initialized, if a parameter is not as described. ValueError when
        training begins, if the net has several of these callbacks.

    Warns
    -----
    UserWarning
        When training begins, if ``max_epochs`` does not reach `start`; when it ends, if
        it was stopped before.

    See Also
    --------
    torch.optim.swa_utils.AveragedModel : torch's own, which copies the module.

    Notes
    -----
    *Schedules.* SWA was proposed with a constant or cyclical learning rate from `start`
    on. This callback leaves the learning rate alone. Callbacks that follow the
    validation loss, such as ``EarlyStopping``, follow that of the average.

    *BatchNorm.* The statistics are those of the training windows as they are, without
    augmentation, in batches of the size that the net validates with. One forward pass
    over the training windows for each epoch computes them. The windows are in the same
    random order each time: in the order of the data, a batch would often hold one
    subject, whose windows vary less than all do. A last, smaller batch is left out.
    Dropout is active, as in training. Layers that stay in evaluation mode keep their
    statistics. Modules without BatchNorm need no pass.

    *Scores of training batches*, such as ``train_loss``, are of the training's own
    weights.

    *Interrupts.* If training is interrupted within an epoch, the net holds the average
    so far. For "swa" that is the average over whole epochs. If training fails, the net
    holds either the training's weights or the average, and never a mixture.

    *More training.* ``partial_fit``, and ``fit`` with ``warm_start=True``, go on from
    the training's own weights, and from the average so far. If the net was given other
    weights in between, by ``load_params`` or by ``EarlyStopping(load_best=True)``,
    training goes on from those and averaging begins anew. So it does after
    ``set_params`` of any callback, which initializes all callbacks.

    *Gradient accumulation.* Where a net steps once in several batches, `decay` counts
    the batches.

    References
    ----------
    SWA: Izmailov et al., 2018, https://doi.org/10.48550/arXiv.1803.05407. EMA: Polyak
    and Juditsky, Acceleration of Stochastic Approximation by Averaging, 1992,
    https://doi.org/10.1137/0330046; Tarvainen and Valpola, Mean Teachers Are Better
    Role Models, 2017, https://doi.org/10.48550/arXiv.1703.01780.

    Examples
    --------
    >>> import numpy as np
    >>> from braindecode import EEGRegressor
    >>> from braindecode_sam import SAM
    >>> from braindecode_sam.callbacks import WeightAveraging
    >>> X, y = np.random.randn(8, 4, 100).astype("float32"), np.arange(8, dtype="f4")
    >>> net = EEGRegressor(
    ...     "FastEEGNeX", optimizer=SAM, max_epochs=4, batch_size=4, verbose=0,
    ...     train_split=None, callbacks=[("swa", WeightAveraging("swa", start=1))])
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
        self._begin_anew()

    def initialize(self) -> Self:
        """Check the parameters and forget earlier trainings."""
        check_choice("kind", self.kind, tuple(STARTS))
        _check_decay(self.decay)
        _check_start(self.start)
        self._begin_anew()
        return self

    def on_train_begin(
        self, net: Any, X: Any = None, y: Any = None, **kwargs: Any
    ) -> None:
        """Come before the other callbacks."""
        _check_is_alone(net.callbacks_)
        first = self._first_epoch(net.max_epochs)
        self.windows_.was_told = first >= len(net.history) + net.max_epochs
        if self.windows_.was_told:
            warnings.warn(
                f"Averaging begins in epoch start={self.start!r}, counted from 0, which"
                f" is not reached with max_epochs={net.max_epochs}: no weights are"
                " averaged.",
                stacklevel=2,
            )
        # A new list, as skorch is going through the present one.
        net.callbacks_ = sorted(net.callbacks_, key=lambda named: named[1] is not self)
        self.windows_.dataset = None

    def on_epoch_begin(
        self,
        net: Any,
        dataset_train: Any = None,
        dataset_valid: Any = None,
        **kwargs: Any,
    ) -> None:
        """Go back to the training's own weights."""
        if self.windows_.dataset is None:  # this is the first epoch of a training
            self._begin_anew_if_replaced(net)
        self._put_back_training(net)
        self.windows_.dataset = dataset_train

    def on_batch_begin(
        self, net: Any, batch: Any = None, training: bool | None = None, **kwargs: Any
    ) -> None:
        """Put in the average before the first batch of the validation."""
        if training:
            # A ResumableCheckpoint sets these attributes only after on_epoch_begin.
            self._put_back_training(net)
            self._add_unfrozen(net)
        elif self.windows_.dataset is not None:
            self._end_steps(net)

    def on_batch_end(
        self, net: Any, batch: Any = None, training: bool | None = None, **kwargs: Any
    ) -> None:
        """Update the moving average; the optimizer has made its step."""
        if training and self.kind == "ema" and self._has_started(net):
            self._update(net)

    def on_epoch_end(
        self,
        net: Any,
        dataset_train: Any = None,
        dataset_valid: Any = None,
        **kwargs: Any,
    ) -> None:
        """Put in the average, if there was no validation."""
        self._end_steps(net)

    def on_train_end(
        self, net: Any, X: Any = None, y: Any = None, **kwargs: Any
    ) -> None:
        """Leave the average in the net, also after an interrupt within an epoch."""
        if self.windows_.dataset is not None:
            self._put_in_average(net)
            is_early = self.averaged_ is None and not self._has_started(net)
            if is_early and not self.windows_.was_told:
                warnings.warn(
                    f"Training ended after {len(net.history)} epochs, before averaging"
                    f" began with start={self.start!r}: no weights are averaged.",
                    stacklevel=2,
                )
        self.windows_.dataset = None

    def __getstate__(self) -> dict[str, Any]:
        # skorch looks after the devices of modules and optimizers, not of callbacks.
        on_cpu = {"averaged_": _cpu(self.averaged_), "training_": _cpu(self.training_)}
        return {**self.__dict__, **on_cpu, "windows_": _Windows()}

    def _begin_anew(self) -> None:
        self.averaged_: dict[str, Tensor] | None = None
        self.n_averaged_ = 0
        self.training_: dict[str, Tensor] | None = None

    def _begin_anew_if_replaced(self, net: Any) -> None:
        """Forget the average that was left in the net, if it is no longer there."""
        if self.training_ is None or self.averaged_ is None:
            return
        params = _params(net)
        is_there = params.keys() >= self.averaged_.keys() and all(
            torch.equal(params[name], average.to(params[name].device))
            for name, average in self.averaged_.items()
        )
        if not is_there:
            self._begin_anew()

    def _first_epoch(self, max_epochs: int) -> int:
        start = STARTS[self.kind] if self.start is None else self.start
        if isinstance(start, Integral):
            return int(start)
        return min(round(start * max_epochs), max_epochs - 1)

    def _has_started(self, net: Any) -> bool:
        return len(net.history) - 1 >= self._first_epoch(net.max_epochs)

    def _end_steps(self, net: Any) -> None:
        """Go over from an epoch's steps to what is done with the average."""
        if self.training_ is None and self._has_started(net):
            if self.kind == "swa":
                self._update(net)
            self._put_in_average(net)

    @torch.no_grad()
    def _update(self, net: Any) -> None:
        params = _params(net)
        with DeferSigint():
            if self.averaged_ is None:
                self.averaged_ = _copies(_trainable(params))
            else:
                # A checkpoint is read to the CPU.
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
        """Begin averages of parameters that were frozen so far, and did not change."""
        if self.averaged_ is not None:
            params = _trainable(_params(net))
            new = {n: p for n, p in params.items() if n not in self.averaged_}
            self.averaged_ |= _copies(new)

    @torch.no_grad()
    def _put_in_average(self, net: Any) -> None:
        """Exchange the training's weights and statistics for those of the average."""
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
            except BaseException:  # an interrupt, too, must not leave a mixture
                self._put_back_training(net)
                raise

    @torch.no_grad()
    def _put_back_training(self, net: Any) -> None:
        if self.training_ is None:
            return
        tensors = _params(net) | _statistics(net)
        with DeferSigint():
            for name, value in self.training_.items():
                # In place: optimizers hold these tensors.
                tensors[name].copy_(value)
            self.training_ = None


class _Windows:
    """The windows of the training that is running.

    An object, so that a ResumableCheckpoint does not take them for a state to keep.
    """

    def __init__(self) -> None:
        self.dataset: Any = None
        self.was_told = False  # that nothing will be averaged

    def inputs(self, net: Any) -> Iterator[tuple[Any]]:
        """Yield the inputs of all whole batches, without augmentation.

        They are in an order that is random, but the same each time.
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


def _check_decay(decay: Any) -> None:
    accepted = "a number >= 0 and < 1"
    check_non_negative("decay", decay, accepted)
    if decay >= 1:
        raise ValueError(f"decay must be {accepted}, got {decay!r}")


def _check_start(start: Any) -> None:
    if start is None:
        return
    told = (
        "start must be an epoch, an integer >= 0, or a fraction of max_epochs, a float"
        f" >= 0 and < 1, or None; got {start!r}"
    )
    if not isinstance(start, Real) or isinstance(start, bool):
        raise TypeError(told)
    if not (float(start) >= 0 and (float(start) < 1 or isinstance(start, Integral))):
        raise ValueError(told)


def _check_is_alone(callbacks: list[tuple[str, Any]]) -> None:
    names = [name for name, c in callbacks if isinstance(c, WeightAveraging)]
    if len(names) > 1:
        raise ValueError(
            f"The net has {len(names)} WeightAveraging callbacks:"
            f" {', '.join(map(repr, names))}. Expected one, as one would take the"
            " other's average for the weights that training goes on from."
        )


def _modules(net: Any, names: list[str]) -> dict[str, torch.nn.Module]:
    parts = {name: getattr(net, name + "_") for name in names}
    return {n: part for n, part in parts.items() if isinstance(part, torch.nn.Module)}


def _params(net: Any) -> dict[str, Tensor]:
    """Name the parameters of a net; one that is shared has one name."""
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
    """Name the running statistics of a net's BatchNorm layers, and their counts."""
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
    """Set BatchNorm's statistics; `call` calls what may be interrupted."""
    with _nothing_changed(net):
        inference = _Inference(net).train()
        call(lambda: update_bn(windows.inputs(net), inference))
        found = {
            place: _copies(dict(layer.named_buffers(recurse=False)))
            for place, layer in _norm_layers(net).items()
            if layer.num_batches_tracked  # else the pass did not reach it
        }
    for place, layer in _norm_layers(net).items():
        for name, value in found.get(place, {}).items():
            layer.get_buffer(name).copy_(value)


class _Inference(torch.nn.Module):
    """All modules of a net as one, which is called as the net calls them."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.parts = torch.nn.ModuleList(_modules(net, net._modules).values())
        self.infer = net.infer

    def forward(self, x: Any) -> Any:
        return self.infer(x)

    def modules(self, remove_duplicate: bool = True) -> Iterator[torch.nn.Module]:
        """Yield the modules that are in training mode.

        torch's update_bn would reset the statistics of a layer that stays in evaluation
        mode, and no batch would bring them back.
        """
        return (m for m in super().modules(remove_duplicate) if m.training)


@contextlib.contextmanager
def _nothing_changed(net: Any) -> Iterator[None]:
    """Put back all that a pass changes, also if it fails."""
    modules = _modules(net, net._modules).values()
    modes = [(layer, layer.training) for part in modules for layer in part.modules()]
    momenta = [(layer, layer.momentum) for layer in _norm_layers(net).values()]
    buffers = [BufferCache().saved(module, set()) for module in modules]
    # On the net, braindecode's iterators note which windows they gave last.
    attributes = dict(vars(net))
    own = [container[key] for container, key in own_generators(net)]
    states = [generator.get_state() for generator in own]
    global_states = generator_states()
    try:
        yield
    finally:
        for layer, mode in modes:
            layer.training = mode
        for norm, momentum in momenta:
            norm.momentum = momentum
        for saved in buffers:
            saved.restore()
        vars(net).update(attributes)
        for generator, state in zip(own, states, strict=True):
            generator.set_state(state)
        set_generator_states(global_states)
