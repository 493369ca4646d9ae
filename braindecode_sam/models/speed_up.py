"""Make the linear front of a model several times faster, in place."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pandas as pd
import torch
from torch.autograd import forward_ad
from torch.nn.modules import module as torch_module
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.parameter import is_lazy as is_lazy_tensor
from torch.nn.utils import parametrize

from braindecode_sam.models._dropout import DropoutReplay
from braindecode_sam.models._fft_conv import FFTConv2d
from braindecode_sam.models._memory import keep_freed_memory
from braindecode_sam.models._pickling import allow_pickling
from braindecode_sam.models._stem.filtered import pads_of, wait
from braindecode_sam.models._stem.moments import MomentsMemory
from braindecode_sam.models._stem.pending import Pending, watch

log = logging.getLogger(__name__)


class WaitingConv2d(torch.nn.Conv2d):
    """A convolution over time that waits for what follows.

    Made of a :class:`torch.nn.Conv2d` by assigning its class, in :func:`speed_up`.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve, or wait.

        Parameters
        ----------
        x : torch.Tensor of shape (batch, 1, n_chans, n_times)
            Windows, or with the last two axes the other way round.

        Returns
        -------
        y : torch.Tensor
            As of the stock layer; maybe a pending one.
        """
        if torch.jit.is_scripting():
            return self._conv_forward(x, self.weight, self.bias)
        else:  # not scripted
            return self._wait(x)

    def _wait(self, x: torch.Tensor) -> torch.Tensor:
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return torch.nn.Conv2d.forward(self, x)
        weight, bias = self.weight, self.bias  # once: a parametrization may count
        reason = self._reason_not_to_wait(x, weight)
        if reason is None:
            memory: Any = self._moments_memory
            return wait(self, x, weight, bias, self.padding, memory)
        self._tell_once(reason)
        return self._conv_forward(x, weight, bias)

    def _reason_not_to_wait(self, x: torch.Tensor, weight: torch.Tensor) -> str | None:
        if type(x) not in _TENSORS:  # first: of torch.fx, say
            return f"its input is a {type(x).__name__}"
        kernel = weight.shape
        if not _is_temporal(self) or kernel[1:] != (1, *self.kernel_size):
            return "it is no convolution of one signal over time, stride and dilation 1"
        behind: Any = self._waits_in
        if _may_be_kept((self, *behind)):
            return "a forward hook may keep its output"
        if x.ndim != 4 or x.shape[1] != 1 or 0 in x.shape:
            return f"its input has the shape {tuple(x.shape)}"
        if x.requires_grad:
            return "its input requires gradients"
        if x.dtype not in _DTYPES or x.dtype != weight.dtype:
            return f"its input is {x.dtype}, its weight {weight.dtype}"
        if x.device.type not in _DEVICES or x.device != weight.device:
            return f"its input is on {x.device}, its weight on {weight.device}"
        axis = 3 if kernel[2] == 1 else 2
        if x.shape[5 - axis] == 1:
            return "there is one channel only"
        pads = pads_of(self.padding, kernel[2:])
        if x.shape[axis] + sum(pads[axis - 2]) < max(kernel[2:]):
            return "its kernel is longer than its input"
        if torch._C._functorch.peek_interpreter_stack() is not None:
            return "it runs inside of torch.func"
        if forward_ad._current_level >= 0:
            return "it runs in forward-mode differentiation"
        if torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.PROXY):
            return "it is being traced"
        return None

    def _tell_once(self, reason: str) -> None:
        told: Any = self._told
        if reason not in told:
            told.add(reason)
            log.info("%s runs as the stock layer: %s", self._name_in_model, reason)


_OWN = ("_moments_memory", "_told", "_name_in_model", "_waits_in", "_drawn")
_TENSORS = (torch.Tensor, torch.nn.Parameter)
_DTYPES = (torch.float32, torch.float64)
_DEVICES = ("cpu", "cuda")


def _may_be_kept(layers: Iterable[torch.nn.Module]) -> bool:
    """Tell whether a hook sees the output of one of the layers."""
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


def speed_up(
    module: torch.nn.Module,
    *,
    input_shape: tuple[int, ...] | None = None,
    verbose: bool = False,
) -> pd.DataFrame:
    """Make the linear front of a model several times faster, in place.

    Models like EEGNet begin with a convolution over time and one over channels, with
    nothing but batch normalization in between. Both commute, and the other order costs
    a fraction. Here the first convolution waits to see what follows. If it is a
    convolution over all channels, the cheap order is computed; if it is anything else,
    a hook, an activation, a layer of your own, it gets what the stock layer would have
    returned. Parameters, buffers, ``state_dict`` and class of the module stay what they
    are, and so do outputs, gradients and running statistics, up to rounding.

    Parameters
    ----------
    module : torch.nn.Module
        Model, or something around one or several. It is run once on a window of zeros
        where its input shape is known, as braindecode's models know it: layers that do
        not get faster are left as they are.
    input_shape : tuple of int, optional
        Shape of a batch, ``(1, n_chans, n_times)`` say, for modules that do not know
        it. Without one, none of their layers is left out. If the module cannot run on
        it, its error is raised.
    verbose : bool, default=False
        Print what is returned. It is logged in any case, at level INFO, and so is why
        a layer runs as the stock one at times.

    Returns
    -------
    layers : pandas.DataFrame
        What got faster: ``layer``, its name; ``pattern``, what follows it; ``before``
        and ``after``, multiply-adds for one window. Empty if nothing did; the module
        is as it was then.

    See Also
    --------
    unspeed : Take it back.
    braindecode_sam.callbacks.SpeedUp : For skorch nets.

    Notes
    -----
    Where something did, the layers behind it get faster too: convolutions over time use
    the FFT where they run on a CPU, and dropout remembers its mask for the second pass
    of a SAM step. One effect is on the whole process: the C library keeps freed blocks
    of up to 32 MiB for the next pass, instead of returning them to the system;
    ``BRAINDECODE_SAM_KEEP_MEMORY=0`` in the environment prevents it.

    Stock layers run where the windows need gradients, where a forward hook may keep
    what the first layers give, under ``torch.compile``, export, tracing, scripting and
    ``torch.func``, in half precision and on devices other than CPU and CUDA or ROCm.
    Windows must not be modified in place while the first layers run: an error tells if
    they are.

    The layers that get faster have classes of their own, derived from torch's. Code
    that compares types (``type(layer) is torch.nn.Conv2d``, fusing and quantization in
    ``torch.ao``) is to run before ``speed_up`` or after ``unspeed``. Forward hooks see
    the one window of zeros, too.

    Examples
    --------
    >>> from braindecode.models import ATCNet
    >>> from braindecode_sam import speed_up
    >>> model = ATCNet(n_chans=22, n_outputs=4, n_times=1000, sfreq=250)
    >>> layers = speed_up(model)
    >>> layers["layer"].tolist(), layers["pattern"].tolist()
    (['conv_block.conv1'], ['depthwise'])
    >>> bool((layers["before"] > 5 * layers["after"]).all())
    True
    """
    _check_arguments(module, input_shape)
    candidates = {
        layer: name for name, layer in module.named_modules() if _can_wait(layer)
    }
    memory = MomentsMemory(max(len(candidates), 1))
    for layer, name in candidates.items():
        _set_class(layer, WaitingConv2d)
        vars(layer).update(
            _moments_memory=memory, _name_in_model=name, _told=set(), _waits_in=()
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
            except Exception as error:  # any error of anybody's forward
                for layer in inside:
                    _turn_back(layer, torch.nn.Conv2d)
                if input_shape is not None:
                    raise
                log.info("%s stays as it is: %s", type(unit).__name__, error)
    rows += [(name, "not tried", None, None) for name in candidates.values()]
    if rows:
        _speed_up_the_rest(module)
    found = pd.DataFrame(rows, columns=["layer", "pattern", "before", "after"])
    for layer, pattern, *_ in rows:
        log.info("%s waits for what follows: %s", layer, pattern)
    if verbose:
        print(found.to_string(index=False) if rows else "No layer gets faster.")
    return found


def _check_arguments(module: object, input_shape: object) -> None:
    if not isinstance(module, torch.nn.Module):
        raise TypeError(
            f"module must be a torch.nn.Module, got {module!r}; of a skorch net, give"
            " net.module_, or give the net callbacks=[SpeedUp()]"
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
            "What torch.compile has compiled runs the stock layers: speed_up gains"
            " nothing there."
        )


def unspeed(module: torch.nn.Module) -> list[str]:
    """Take back what :func:`speed_up` did.

    Parameters
    ----------
    module : torch.nn.Module
        Model, or something around one or several.

    Returns
    -------
    layers : list of str
        Names of the layers that are stock ones again.

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
        for ours, stock in _STOCK.items():
            if isinstance(layer, ours):
                _turn_back(layer, stock)
                names.append(name)
    return names


_STOCK = {
    WaitingConv2d: torch.nn.Conv2d,
    FFTConv2d: torch.nn.Conv2d,
    DropoutReplay: torch.nn.Dropout,
}


def _can_wait(layer: torch.nn.Module) -> bool:
    cls: Any = type(layer)
    if parametrize.is_parametrized(layer):
        cls = cls.__base__  # torch made a class for this layer alone
    is_known = cls in (torch.nn.Conv2d, WaitingConv2d)
    return is_known and isinstance(layer, torch.nn.Conv2d) and _is_temporal(layer)


def _set_class(layer: Any, cls: Any) -> None:
    if parametrize.is_parametrized(layer):
        type(layer).__bases__ = (cls,)
    else:
        layer.__class__ = cls


def _turn_back(layer: Any, stock: Any) -> None:
    _set_class(layer, stock)
    for attribute in _OWN:
        layer.__dict__.pop(attribute, None)


def _units(
    module: torch.nn.Module, input_shape: tuple[int, ...] | None
) -> Iterator[tuple[torch.nn.Module, tuple[int, ...]]]:
    """Find the modules whose input shapes are known, the outermost ones first."""
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
    """Run a module once; turn back the layers that do not pay."""
    some = next(unit.parameters())
    is_lazy = any(map(is_lazy_tensor, [*unit.parameters(), *unit.buffers()]))
    if is_lazy or some.dtype not in _DTYPES or some.device.type not in _DEVICES:
        return [(name, "not tried", None, None) for name in layers.values()]
    x = torch.zeros(1, *shape[1:], device=some.device, dtype=some.dtype)
    with watch() as outcomes, _left_alone(unit), _noting_where_they_wait():
        unit(x)
    rows = []
    for layer, name in layers.items():
        own = [outcome for outcome in outcomes if outcome[0] is layer]
        ends = [what for _, pattern, what in own if pattern is not None]
        before, after = (sum(end[i] for end in ends) for i in (0, 1))
        if len(ends) == len(own) > 0 and after < before:
            rows.append((name, own[0][1], int(before), int(after)))
        else:
            _turn_back(layer, torch.nn.Conv2d)
            asked = [getattr(w, "__name__", w) for _, p, w in own if p is None]
            reason = f"asked for by {asked[0]}" if asked else "nothing is gained"
            log.info("%s stays the stock layer: %s", name, reason)
    return rows


@contextlib.contextmanager
def _noting_where_they_wait() -> Iterator[None]:
    """Note of each layer behind which other modules its output still waits."""

    def note(module: torch.nn.Module, args: object, output: object) -> None:
        if isinstance(output, Pending):
            for layer in output.deferred.sources:
                if module is not layer and module not in layer._waits_in:
                    layer._waits_in = (*layer._waits_in, module)

    note.ignores_output = True  # type: ignore[attr-defined]
    handle = register_module_forward_hook(note)
    try:
        yield
    finally:
        handle.remove()


@contextlib.contextmanager
def _left_alone(module: torch.nn.Module) -> Iterator[None]:
    """Let a module run in evaluation mode, and leave no trace of it."""
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


def _speed_up_the_rest(module: torch.nn.Module) -> None:
    keep_freed_memory()
    allow_pickling(module)
    for layer in module.modules():
        if FFTConv2d.can_replace(layer):
            layer.__class__ = FFTConv2d
        elif type(layer) is torch.nn.Dropout:
            layer.__class__ = DropoutReplay
