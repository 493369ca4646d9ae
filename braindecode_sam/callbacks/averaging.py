"""A callback that averages the weights of a training (SWA and EMA)."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from numbers import Integral, Real
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator
from skorch.callbacks import Callback
from skorch.dataset import get_len, unpack_data
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import get_ema_multi_avg_fn, get_swa_multi_avg_fn

from braindecode_sam._arguments import check_below_one, check_choice
from braindecode_sam._interrupts import DeferSigint
from braindecode_sam._random import generator_states, set_generator_states

SWA = get_swa_multi_avg_fn()
STARTS = {"ema": 0.0, "swa": 0.75}  # by kind, where `start` is None


class WeightAveraging(BaseEstimator, Callback):
    r"""Average the weights of a training, and validate and predict with the average.

    From the first validation on, the net holds the averaged weights wherever it is
    used: in the validation, in the scores and checkpoints of other callbacks, and after
    training. The training itself continues from its own weights: its losses, random
    numbers and optimizer are those of a training without this callback.

    Parameters
    ----------
    kind : {"ema", "swa"}, default="ema"
        "ema", the exponential moving average [2]_ [3]_, is updated after every batch.
        "swa", stochastic weight averaging [1]_, is the equal average of the weights
        after each epoch.
    decay : float, default=0.99
        Share of the average that an update keeps, at least 0 and less than 1, for "ema"
        only. The average reaches back over about ``1 / (1 - decay)`` batches. 0.99 fits
        training runs of a few hundred batches, which are usual for EEG. With 0.999 the
        first weights would keep a share of 61 % after 500 batches.
    start : int, float or None, default=None
        Where averaging begins. An integer is an epoch, counted from 0. A float is a
        fraction of ``net.max_epochs``, at least 0 and less than 1, and is rounded to
        whole epochs. None is 0.0 for "ema", which forgets the first weights, and 0.75
        for "swa", which does not.

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

    For SWA, this is Algorithm 1 of [1]_ without its constant or cyclical learning rate,
    for which a scheduler can be added.

    **BatchNorm.** The running statistics at :math:`w`, and their average, do not fit
    the averaged weights. One forward pass over the training windows per epoch computes
    new ones, without augmentation, with dropout as in training, and with the batch size
    of the validation. The windows are in a fixed random order, since batches in the
    order of the data would often hold a single subject, and a last, smaller batch is
    left out. The dataset must have a length. Layers that stay in evaluation mode keep
    their statistics, and modules without BatchNorm need no pass.

    **Interrupts.** If training is interrupted within an epoch, the net holds the
    current average. If training fails, the net holds either the training's weights or
    the average, and never a mixture.

    **More training.** ``partial_fit``, and ``fit`` with ``warm_start=True``, continue
    from the training's own weights and from the current average. If the net was given
    other weights in between, by ``load_params`` or ``EarlyStopping(load_best=True)``,
    training continues from those and averaging starts again. It also starts again after
    ``set_params`` of any callback, which initializes all callbacks.

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
        self._dataset: Any = None  # the training windows, while training runs
        self._reset()

    def initialize(self) -> Self:
        """Check the parameters, and discard earlier averages."""
        check_choice("kind", self.kind, tuple(STARTS))
        check_below_one("decay", self.decay)
        start: Any = 0 if self.start is None else self.start
        message = (
            "start must be an epoch, an integer >= 0, or a fraction of max_epochs, a"
            f" float >= 0 and < 1, or None; got {start!r}"
        )
        if not isinstance(start, Real) or isinstance(start, bool):
            raise TypeError(message)
        below = np.inf if isinstance(start, Integral) else 1
        if not 0 <= float(start) < below:
            raise ValueError(message)
        self._reset()
        return self

    def on_train_begin(self, net: Any, **kwargs: Any) -> None:
        """Become the first callback."""
        names = [n for n, c in net.callbacks_ if isinstance(c, WeightAveraging)]
        if len(names) > 1:
            raise ValueError(
                f"The net has {len(names)} WeightAveraging callbacks:"
                f" {', '.join(map(repr, names))}. Expected one, since each would treat"
                " the other's average as the weights of the training."
            )
        if self._first_epoch(net.max_epochs) >= len(net.history) + net.max_epochs:
            warnings.warn(
                f"Averaging begins in epoch start={self.start!r}, counted from 0, which"
                f" is not reached with max_epochs={net.max_epochs}. No weights are"
                " averaged.",
                stacklevel=2,
            )
        # A new list, as skorch is iterating over the current one.
        net.callbacks_ = sorted(net.callbacks_, key=lambda named: named[1] is not self)
        self._dataset = None

    def on_epoch_begin(
        self, net: Any, dataset_train: Any = None, **kwargs: Any
    ) -> None:
        """Restore the training's own weights, unless the net was given others."""
        if self._dataset is None and self.training_ is not None:
            params, averaged = _params(net), self.averaged_ or {}
            is_in_net = averaged.keys() <= params.keys() and all(
                torch.equal(params[name].cpu(), value.cpu())
                for name, value in averaged.items()
            )
            if not is_in_net:
                self._reset()
        self._restore_training(net)
        self._dataset = dataset_train

    def on_batch_begin(
        self, net: Any, batch: Any = None, training: bool | None = None, **kwargs: Any
    ) -> None:
        """Load the average before the first batch of the validation."""
        if not training:
            self._end_steps(net)
            return
        # ResumableCheckpoint restores these attributes after on_epoch_begin.
        self._restore_training(net)
        if self.averaged_ is not None:
            # Parameters that were frozen until now join as they are before this step.
            trainable = _trainable(net).items()
            new = {n: param for n, param in trainable if n not in self.averaged_}
            self.averaged_ |= _copies(new)

    def on_batch_end(
        self, net: Any, batch: Any = None, training: bool | None = None, **kwargs: Any
    ) -> None:
        """Update the moving average, after the optimizer's step."""
        if training and self.kind == "ema" and self._has_started(net):
            self._update(net)

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        """Load the average, if there was no validation."""
        self._end_steps(net)

    def on_train_end(self, net: Any, **kwargs: Any) -> None:
        """Leave the average in the net, even after an interrupt within an epoch."""
        if self._dataset is None:  # there was no epoch
            return
        self._load_average(net)
        self._dataset = None
        if len(net.history) <= self._first_epoch(net.max_epochs) < net.max_epochs:
            warnings.warn(
                f"Training ended after {len(net.history)} epochs, before averaging"
                f" began with start={self.start!r}. No weights are averaged.",
                stacklevel=2,
            )

    def __getstate__(self) -> dict[str, Any]:
        # skorch maps the devices of modules and optimizers, but not of callbacks.
        on_cpu = {"averaged_": _cpu(self.averaged_), "training_": _cpu(self.training_)}
        return {**self.__dict__, **on_cpu, "_dataset": None}

    def _reset(self) -> None:
        self.averaged_: dict[str, Tensor] | None = None
        self.n_averaged_ = 0
        self.training_: dict[str, Tensor] | None = None

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
                self.averaged_ = _copies(_trainable(net))
            else:
                is_ema = self.kind == "ema"
                update = get_ema_multi_avg_fn(self.decay) if is_ema else SWA
                now = [params[name] for name in self.averaged_]
                # After a checkpoint was read, the average is on the CPU.
                self.averaged_ = {
                    n: a.to(params[n].device) for n, a in self.averaged_.items()
                }
                update(list(self.averaged_.values()), now, self.n_averaged_)
            self.n_averaged_ += 1

    @torch.no_grad()
    def _load_average(self, net: Any) -> None:
        """Replace the training's weights and statistics by those of the average."""
        if self.training_ is not None or self.averaged_ is None:
            return
        params, statistics = _params(net), _statistics(net)
        with DeferSigint() as sigint:
            before = {name: params[name] for name in self.averaged_} | statistics
            self.training_ = _copies(before)
            try:
                for name, average in self.averaged_.items():
                    params[name].copy_(average)
                if statistics:
                    _estimate_statistics(net, self._dataset, sigint)
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


def _parts(net: Any, names: list[str]) -> dict[str, torch.nn.Module]:
    parts = {name: getattr(net, name + "_") for name in names}
    return {n: part for n, part in parts.items() if isinstance(part, torch.nn.Module)}


def _params(net: Any) -> dict[str, Tensor]:
    """Return the parameters of a net by name. A shared parameter has one name."""
    names: dict[Tensor, str] = {}
    for part, module in _parts(net, [*net._modules, *net._criteria]).items():
        for name, param in module.named_parameters():
            names.setdefault(param, f"{part}.{name}")
    return {name: param for param, name in names.items()}


def _trainable(net: Any) -> dict[str, Tensor]:
    return {n: param for n, param in _params(net).items() if param.requires_grad}


def _copies(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def _cpu(tensors: dict[str, Tensor] | None) -> dict[str, Tensor] | None:
    return None if tensors is None else {n: t.cpu() for n, t in tensors.items()}


# BatchNorm's statistics


def _norm_layers(net: Any) -> dict[str, _BatchNorm]:
    return {
        f"{part}.{name}": layer
        for part, module in _parts(net, net._modules).items()
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


def _estimate_statistics(net: Any, dataset: Any, sigint: DeferSigint) -> None:
    """Set BatchNorm's statistics to those of one pass over the training windows."""
    with _only_looking(net):
        for module in _parts(net, net._modules).values():
            module.train()
        # Some layers stay in evaluation mode, and keep their statistics.
        layers = {n: x for n, x in _norm_layers(net).items() if x.training}
        for layer in layers.values():
            layer.reset_running_stats()
            layer.momentum = None  # all batches count alike
        sigint.call(lambda: _infer_whole_batches(net, dataset))
        reached = {n for n, layer in layers.items() if layer.num_batches_tracked}
        found = _copies(_statistics(net))
    for name, buffer in _statistics(net).items():
        if name.rpartition(".")[0] in reached:
            buffer.copy_(found[name])


def _infer_whole_batches(net: Any, dataset: Any) -> None:
    """Pass the windows through the net, without augmentation, in a random order."""
    order = np.random.default_rng(0).permutation(len(dataset)).tolist()
    windows = torch.utils.data.Subset(dataset, order)
    largest = 0
    for batch in net.get_iterator(windows, training=False):
        X, _ = unpack_data(batch)
        if get_len(X) >= largest:
            largest = get_len(X)
            net.infer(X)


@contextlib.contextmanager
def _only_looking(net: Any) -> Iterator[None]:
    """Restore what a pass changes, even if it fails. skorch sets the modes itself."""
    momenta = [(layer, layer.momentum) for layer in _norm_layers(net).values()]
    buffers = [
        (layer._buffers, name, buffer, buffer.clone())
        for module in _parts(net, net._modules).values()
        for layer in module.modules()
        for name, buffer in layer._buffers.items()
        if buffer is not None
    ]
    # braindecode's iterators store the indices of the last windows on the net.
    attributes = dict(vars(net))
    generators = generator_states(net)
    try:
        yield
    finally:
        for norm, momentum in momenta:
            norm.momentum = momentum
        for table, name, buffer, copy in buffers:
            table[name] = buffer  # a forward may have replaced it
            # Expanded buffers cannot be written, sparse ones not compared.
            if buffer.layout is not torch.strided or not torch.equal(buffer, copy):
                buffer.copy_(copy)
        vars(net).update(attributes)
        set_generator_states(generators, net)
