"""Speed up the linear front of a model in place."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

import pandas as pd
import torch
from torch.autograd import forward_ad
from torch.nn.modules import module as torch_module
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.parameter import is_lazy as is_lazy_tensor
from torch.nn.utils import parametrize

from braindecode_sam.models import _cost
from braindecode_sam.models._dropout import DropoutReplay
from braindecode_sam.models._fft_conv import FFTConv2d
from braindecode_sam.models._memory import keep_freed_memory
from braindecode_sam.models._pickling import allow_pickling
from braindecode_sam.models._stem.filtered import defer_convolution, pads_of
from braindecode_sam.models._stem.moments import MomentsMemory
from braindecode_sam.models._stem.pending import UNKNOWN, Pending, Watched, watch
from braindecode_sam.threads import share_cores

log = logging.getLogger(__name__)


class WaitingConv2d(torch.nn.Conv2d):
    """A convolution over time whose computation is deferred.

    :func:`speed_up` assigns this class to layers of class :class:`torch.nn.Conv2d`.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve, or defer the convolution.

        Parameters
        ----------
        x : torch.Tensor of shape (batch, 1, n_chans, n_times)
            Windows, or the same with the last two axes swapped.

        Returns
        -------
        y : torch.Tensor
            Output of the original layer, possibly pending.
        """
        if torch.jit.is_scripting():
            return self._conv_forward(x, self.weight, self.bias)
        else:  # not scripted
            return self._defer(x)

    def _defer(self, x: torch.Tensor) -> torch.Tensor:
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return torch.nn.Conv2d.forward(self, x)
        if not self._pays(x):  # before all else, since small batches take little time
            self._log_once("that is faster for small batches")
            return torch.nn.Conv2d.forward(self, x)
        weight, bias = self.weight, self.bias  # once: parametrizations may have state
        reason = self._reason_not_to_defer(x, weight)
        if reason is None:
            memory: Any = self._moments_memory
            return defer_convolution(self, x, weight, bias, self.padding, memory)
        self._log_once(reason)
        return self._conv_forward(x, weight, bias)

    def _reason_not_to_defer(self, x: torch.Tensor, weight: torch.Tensor) -> str | None:
        if type(x) not in _TENSORS:  # first, since torch.fx passes proxies
            return f"its input is a {type(x).__name__}"
        kernel = weight.shape
        if not _is_temporal(self) or kernel[1:] != (1, *self.kernel_size):
            return "it is not a temporal convolution with stride and dilation 1"
        behind: Any = self._pending_behind
        if _has_hooks((self, *behind)):
            return "a forward hook may read its output"
        if x.ndim != 4 or x.shape[1] != 1 or 0 in x.shape:
            return f"its input has the shape {tuple(x.shape)}"
        if x.requires_grad:
            return "its input requires gradients"
        if x.dtype not in _DTYPES or x.dtype != weight.dtype:
            return f"its input is {x.dtype}, its weight {weight.dtype}"
        if x.device.type not in _DEVICES or x.device != weight.device:
            return f"its input is on {x.device}, its weight on {weight.device}"
        axis = 3 if kernel[2] == 1 else 2
        if self.front is None and not self.is_forced:
            return "its output was read by another layer or function"
        if x.shape[5 - axis] == 1:
            return "it has a single channel"
        pads = pads_of(self.padding, kernel[2:])
        if x.shape[axis] + sum(pads[axis - 2]) < max(kernel[2:]):
            return "its kernel is longer than its input"
        if torch._C._functorch.peek_interpreter_stack() is not None:
            return "it runs inside torch.func"
        if forward_ad._current_level >= 0:
            return "it runs in forward-mode differentiation"
        if torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.PROXY):
            return "it is being traced"
        return None

    def _pays(self, x: torch.Tensor) -> bool:
        front: Any = self.front
        if self.is_forced or type(front) is not _cost.Front or type(x) not in _TENSORS:
            return True
        shape, device_type = x.shape, x.device.type
        if len(shape) != 4 or device_type not in _DEVICES:
            return True
        n_windows, _, n_chans, n_times = shape
        if self.kernel_size[0] > 1:
            n_chans, n_times = n_times, n_chans
        n_out = n_times - cast(int, self.n_lost)  # equal in all branches
        batch = _cost.Batch(n_windows, n_chans, n_out, _cost.trains(self))
        return _cost.front_pays(front, batch, x.dtype, device_type)

    def _log_once(self, reason: str) -> None:
        logged: Any = self._logged
        if reason not in logged:
            logged.add(reason)
            log.info("%s runs as the original layer: %s", self._name_in_model, reason)


_OWN = (
    "front", "n_lost", "is_forced", "_moments_memory", "_logged", "_name_in_model",
    "_pending_behind", "_drawn",
)  # fmt: skip
_TENSORS = (torch.Tensor, torch.nn.Parameter)
_DTYPES = (torch.float32, torch.float64)
_DEVICES = ("cpu", "cuda")


def _has_hooks(layers: Iterable[torch.nn.Module]) -> bool:
    """Return whether a hook receives the output of one of the layers."""
    every = torch_module._global_forward_hooks.values()
    if not all(getattr(hook, "ignores_output", False) for hook in every):
        return True
    return any(layer._forward_hooks for layer in layers)


def _is_temporal(layer: torch.nn.Conv2d) -> bool:
    return (
        layer.in_channels == layer.groups == 1
        and 1 in layer.kernel_size
        and layer.kernel_size != (1, 1)
        and layer.stride == layer.dilation == (1, 1)
        and layer.padding_mode == "zeros"
        and pads_of(layer.padding, layer.kernel_size)[layer.kernel_size.index(1)]
        == (0, 0)
        and not {"forward", "_conv_forward"} & vars(layer).keys()
    )


FORCE = "BRAINDECODE_SAM_FORCE"


def speed_up(
    module: torch.nn.Module,
    *,
    input_shape: tuple[int, ...] | None = None,
    force: bool | None = None,
    verbose: bool = False,
) -> pd.DataFrame:
    """Speed up the linear front of a model in place.

    Models like EEGNet begin with a convolution over time and one over channels, with
    only batch normalization in between. These layers commute, and the other order costs
    a fraction of the work. This function defers the first convolution until its output
    is used. If a convolution over all channels follows, the cheaper order is computed.
    Anything else, such as a hook, an activation or a custom layer, gets the output of
    the original layer, and so does a batch that is too small to gain. Parameters,
    buffers, ``state_dict`` and the class of the module do not change, and outputs,
    gradients and running statistics are equal up to rounding.

    Parameters
    ----------
    module : torch.nn.Module
        Model, or a module that contains models. It runs once on a window of zeros if
        its input shape is known, as it is for braindecode's models. Layers that would
        not get faster for any batch of up to 1024 windows are restored.
    input_shape : tuple of int, optional
        Shape of a batch, such as ``(1, n_chans, n_times)``, for modules that do not
        know it. Without a shape, layers are replaced untested, and deferred once to
        find out what follows. If the module cannot run on this shape, its error is
        raised.
    force : bool, optional
        Whether to defer layers even where that is estimated to be slower. The default,
        None, is the environment variable ``BRAINDECODE_SAM_FORCE``, 1 or 0.
    verbose : bool, default=False
        Whether to print the returned table. It is also logged at level INFO, as are the
        reasons for which a layer runs as the original one.

    Returns
    -------
    layers : pandas.DataFrame
        Layers that are deferred: ``layer``, the name; ``pattern``, the operation that
        follows, or "not tried" without a shape; ``train_from`` and ``predict_from``,
        the smallest batches for which deferring is estimated to be faster, missing if
        there is none or the layer was not tried. If no layer is deferred, the table is
        empty and the module is unchanged.

    See Also
    --------
    unspeed : Undo the replacement.
    braindecode_sam.callbacks.SpeedUp : Callback for skorch nets.

    Notes
    -----
    Each call decides from the shape of the batch, the dtype, the type of device and
    whether it trains, in training mode or with gradients enabled. The decision compares
    two estimates of time, not measurements, so it is the same in every run.
    :ref:`sizes` shows from which sizes on models get faster, and :ref:`gpus` how GPUs
    differ.

    If any layer gets faster, later layers do too. Convolutions over time use the FFT on
    a CPU, and dropout reuses its mask in the second pass of a SAM step. Two effects
    concern the whole process: :func:`share_cores` is called, and the C library keeps
    freed blocks of up to 32 MiB for the next pass instead of returning them to the
    system. Set the environment variable ``BRAINDECODE_SAM_KEEP_MEMORY=0`` to prevent
    the latter.

    The original layers run if the windows require gradients, if a forward hook may read
    the output of the first layers, under ``torch.compile``, export, tracing, scripting
    and ``torch.func``, in half precision, and on devices other than CPU and CUDA or
    ROCm. Windows must not be modified in place while the first layers run; this raises
    RuntimeError.

    The classes of replaced layers are subclasses of torch's. Run code that compares
    types, such as ``type(layer) is torch.nn.Conv2d`` or fusion and quantization in
    ``torch.ao``, before ``speed_up`` or after ``unspeed``. Forward hooks also receive
    the window of zeros.

    :doc:`/mathematics` derives the cheaper order.

    Examples
    --------
    >>> from braindecode.models import EEGNet
    >>> from braindecode_sam import speed_up
    >>> model = EEGNet(
    ...     n_chans=8, n_outputs=2, n_times=250, final_layer_with_constraint=True)
    >>> layers = speed_up(model)
    >>> layers["layer"].tolist(), layers["pattern"].tolist()
    (['conv_temporal'], ['depthwise'])
    >>> layers["train_from"].tolist(), layers["predict_from"].tolist()
    ([13], [15])
    """
    _check_arguments(module, input_shape)
    is_forced = os.environ.get(FORCE, "0") == "1" if force is None else force
    candidates = {
        layer: name for name, layer in module.named_modules() if _can_defer(layer)
    }
    memory = MomentsMemory(max(len(candidates), 1))
    for layer, name in candidates.items():
        _set_class(layer, WaitingConv2d)
        vars(layer).update(
            front=UNKNOWN,
            is_forced=is_forced,
            _moments_memory=memory,
            _name_in_model=name,
            _logged=set(),
            _pending_behind=(),
        )
    rows = []
    for unit, shape in _units(module, input_shape):
        inside = {
            layer: candidates.pop(layer)
            for layer in unit.modules()
            if layer in candidates
        }
        if inside:
            try:
                rows += _try(unit, shape, inside)
            except Exception as error:  # a forward may raise anything
                for layer in inside:
                    _restore_class(layer, torch.nn.Conv2d)
                if input_shape is not None:
                    raise
                log.info("%s is unchanged: %s", type(unit).__name__, error)
    rows += [(name, "not tried", None, None) for name in candidates.values()]
    if rows:
        _replace_later_layers(module, is_forced)
        log.info("share_cores: %s", share_cores())
    found = pd.DataFrame(rows, columns=["layer", "pattern", *_BATCHES])
    found = found.astype(dict.fromkeys(_BATCHES, "Int64"))  # which can be missing
    for layer, pattern, *_ in rows:
        log.info("%s is deferred: %s", layer, pattern)
    if verbose:
        print(found.to_string(index=False) if rows else "No layer gets faster.")
    return found


_BATCHES = "train_from", "predict_from"


def _check_arguments(module: object, input_shape: object) -> None:
    if not isinstance(module, torch.nn.Module):
        raise TypeError(
            f"module must be a torch.nn.Module, got {module!r}; for a skorch net, pass"
            " net.module_, or use callbacks=[SpeedUp()]"
        )
    if input_shape is not None and not (
        isinstance(input_shape, Sequence)
        and all(isinstance(n, int) and n > 0 for n in input_shape)
    ):
        raise TypeError(
            "input_shape must be None or the shape of a batch of windows, such as"
            f" (1, n_chans, n_times), got {input_shape!r}"
        )
    if any(hasattr(m, "_orig_mod") for m in module.modules()):
        log.warning(
            "Modules compiled by torch.compile run the original layers, so speed_up has"
            " no effect on them."
        )


def unspeed(module: torch.nn.Module) -> list[str]:
    """Undo :func:`speed_up`.

    Parameters
    ----------
    module : torch.nn.Module
        Model, or a module that contains models.

    Returns
    -------
    layers : list of str
        Names of the restored layers.

    Examples
    --------
    >>> from braindecode.models import EEGNet
    >>> from braindecode_sam import speed_up, unspeed
    >>> model = EEGNet(
    ...     n_chans=8, n_outputs=2, n_times=200, final_layer_with_constraint=True)
    >>> _ = speed_up(model)
    >>> unspeed(model)[0], speed_up(model)["layer"].tolist()
    ('conv_temporal', ['conv_temporal'])
    """
    names = []
    for name, layer in module.named_modules():
        for fast, original in _ORIGINAL.items():
            if isinstance(layer, fast):
                _restore_class(layer, original)
                names.append(name)
    return names


_ORIGINAL = {
    WaitingConv2d: torch.nn.Conv2d,
    FFTConv2d: torch.nn.Conv2d,
    DropoutReplay: torch.nn.Dropout,
}


def _can_defer(layer: torch.nn.Module) -> bool:
    cls: Any = type(layer)
    if parametrize.is_parametrized(layer):
        cls = cls.__base__  # torch made a class for this layer
    is_known = cls in (torch.nn.Conv2d, WaitingConv2d, FFTConv2d)
    return is_known and isinstance(layer, torch.nn.Conv2d) and _is_temporal(layer)


def _set_class(layer: Any, cls: Any) -> None:
    if parametrize.is_parametrized(layer):
        type(layer).__bases__ = (cls,)
    else:
        layer.__class__ = cls


def _restore_class(layer: Any, original: Any) -> None:
    _set_class(layer, original)
    for attribute in _OWN:
        layer.__dict__.pop(attribute, None)


def _units(
    module: torch.nn.Module, input_shape: tuple[int, ...] | None
) -> Iterator[tuple[torch.nn.Module, tuple[int, ...]]]:
    """Find the outermost modules whose input shapes are known."""
    if input_shape is not None:
        yield module, input_shape
        return
    try:
        shape: Any = module.input_shape
    except (AttributeError, ValueError):
        for child in module.children():
            yield from _units(child, None)
    else:
        yield module, tuple(shape)


def _try(
    unit: torch.nn.Module, shape: tuple[int, ...], layers: dict[Any, str]
) -> list[tuple[Any, ...]]:
    """Run a module once, and restore the layers that do not get faster."""
    some = next(unit.parameters())
    is_lazy = any(map(is_lazy_tensor, [*unit.parameters(), *unit.buffers()]))
    if is_lazy or some.dtype not in _DTYPES or some.device.type not in _DEVICES:
        return [(name, "not tried", None, None) for name in layers.values()]
    x = torch.zeros(1, *shape[1:], device=some.device, dtype=some.dtype)
    with watch() as watched, _evaluating(unit), _recording_pending_outputs():
        output = unit(x)  # may hold the maps of a layer
    rows = []
    for layer, name in layers.items():
        reason = _reason_to_restore(layer, watched)
        if reason is None:
            front, sizes, _ = watched.of(layer)[0]
            batches = [
                _cost.smallest_batch(front, *sizes, trains, x.dtype, x.device.type)
                for trains in (True, False)
            ]
            if layer.is_forced or any(batches):
                pattern = "depthwise" if front.is_depthwise else "merged kernel"
                rows.append((name, pattern, *batches))
                continue
            reason = "no gain"
        _restore_class(layer, torch.nn.Conv2d)
        log.info("%s stays the original layer: %s", name, reason)
    del output
    return rows


def _reason_to_restore(layer: torch.nn.Module, watched: Watched) -> str | None:
    outcomes = watched.of(layer)
    if not outcomes:
        return "its output is not used"
    for front, _, reader in outcomes:
        if front is None:
            return f"its output is read by {getattr(reader, '__name__', reader)}"
    return "the model keeps its output" if watched.is_kept(layer) else None


@contextlib.contextmanager
def _recording_pending_outputs() -> Iterator[None]:
    """Record for each layer the later modules whose output is still pending."""

    def record(module: torch.nn.Module, args: object, output: object) -> None:
        if isinstance(output, Pending):
            for layer in output.deferred.sources:
                if module is not layer and module not in layer._pending_behind:
                    layer._pending_behind = (*layer._pending_behind, module)

    record.ignores_output = True  # type: ignore[attr-defined]
    handle = register_module_forward_hook(record)
    try:
        yield
    finally:
        handle.remove()


@contextlib.contextmanager
def _evaluating(module: torch.nn.Module) -> Iterator[None]:
    """Run a module in evaluation mode, and restore its state afterwards."""
    training = {m: m.training for m in module.modules()}
    buffers = [(b, b.clone()) for b in module.buffers()]
    for m in training:
        m.training = False
    try:
        with torch.random.fork_rng(), torch.no_grad():
            yield
    finally:
        for m, mode in training.items():
            m.training = mode
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)


def _replace_later_layers(module: torch.nn.Module, is_forced: bool) -> None:
    keep_freed_memory()
    allow_pickling(module)
    for layer in module.modules():
        if FFTConv2d.can_replace(layer):
            layer.__class__ = FFTConv2d
        if isinstance(layer, FFTConv2d):
            layer.is_forced = is_forced
        elif type(layer) is torch.nn.Dropout:
            layer.__class__ = DropoutReplay
