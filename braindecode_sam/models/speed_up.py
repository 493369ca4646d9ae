"""Speed up the layers of a model in place.

:func:`speed_up` gives layers classes derived from their own and ``_faster.Faster``. In
each call, they ask ``_cost.pays`` and ``_eager.reason_not_eager`` whether to compute as
torch does.

The first convolution of a front is a ``_stem.waiting.WaitingConv2d``. Its output is a
``_stem.pending.Pending``, a tensor that holds a ``Deferred`` computation and no values.
``_stem.filtered.Filtered`` follows what comes next. Batch normalization scales the
filters, by statistics from ``_stem.moments``. A second convolution over time is
composed with the first by ``_stem.linear``. One over channels computes in the cheaper
order. Anything else gets the value of the original layers. What followed is noted in
the layer's ``Source``, for the estimate of the next call.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
from collections.abc import Iterator, Sequence
from typing import Any, cast

import pandas as pd
import torch
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.parameter import is_lazy as is_lazy_tensor

from braindecode_sam.models import _cost
from braindecode_sam.models._eager import DTYPES
from braindecode_sam.models._elementwise import DropoutReplay, ELUByExp
from braindecode_sam.models._faster import Faster, Settings, class_of, replace, restore
from braindecode_sam.models._fft_conv import FFTConv1d, FFTConv2d
from braindecode_sam.models._pickling import allow_pickling
from braindecode_sam.models._stem.moments import MomentsMemory
from braindecode_sam.models._stem.pending import Pending, Source
from braindecode_sam.models._stem.waiting import DEVICES, WaitingConv2d
from braindecode_sam.threads import share_cores

log = logging.getLogger(__name__)
FORCE = "BRAINDECODE_SAM_FORCE"


def speed_up(
    module: torch.nn.Module,
    *,
    input_shape: tuple[int, ...] | None = None,
    force: bool | None = None,
    exact_masks: bool = True,
    verbose: bool = False,
) -> pd.DataFrame:
    """Speed up the layers of a model in place.

    Four kinds of layers get faster on a CPU, wherever they are in the model:

    - *Fronts.* Models like EEGNet begin with a convolution over time and one over
      channels, with only batch normalization in between. These layers commute, and the
      other order costs a fraction of the work. The first convolution is deferred until
      its output is used. If a convolution over all channels follows, the cheaper order
      is computed. Anything else, such as a hook, an activation or a custom layer, gets
      the output of the original layer.
    - *Long convolutions over time* use the FFT.
    - *ELU* computes exp(x) - 1 instead of torch's expm1, which is slow on processors
      with AVX512.
    - *Dropout* reuses its mask in the second pass of a SAM step. With
      ``exact_masks=False``, it also draws masks faster.

    Parameters, buffers, ``state_dict`` and the class of the module do not change, and
    outputs, gradients and running statistics are equal up to rounding. Where the
    original layers are faster, as they are for small batches, they run.

    Parameters
    ----------
    module : torch.nn.Module
        Model, or a module that contains models. It runs once on a window of zeros if
        its input shape is known, as it is for braindecode's models. Layers that would
        not get faster for any batch of up to 1024 windows stay as they are.
    input_shape : tuple of int, optional
        Shape of a batch, such as ``(1, n_chans, n_times)``, for modules that do not
        know it. Without a shape, layers are replaced untested, and first layers are
        deferred once to find out what follows. If the module cannot run on this shape,
        its error is raised.
    force : bool, optional
        Whether to take the other way even where it is estimated to be slower. The
        default, None, is the environment variable ``BRAINDECODE_SAM_FORCE``, 1 or 0.
    exact_masks : bool, default=True
        Whether dropout draws the masks of torch. With False, masks are drawn several
        times faster on processors that are not Intel's, where torch draws them slowly.
        They differ from torch's for the same seed, and have the same distribution: an
        element is dropped with probability ``p``, rounded to a multiple of 1/65536.
        They are reproducible, and both passes of a SAM step drop the same elements.
    verbose : bool, default=False
        Whether to print the returned table. It is also logged at level INFO, as are the
        reasons for which a first layer is not deferred.

    Returns
    -------
    layers : pandas.DataFrame
        Layers that get faster: ``layer``, the name; ``pattern``, how;
        ``train_from`` and ``predict_from``, the smallest batches for which that is
        estimated to be faster, missing if there is none or the layer was not tried. The
        pattern of a front is the operation that follows, "depthwise" or "merged
        kernel". Other patterns are "FFT", "exp" of ELU, "mask" of dropout (in the
        second pass of a SAM step, unless ``exact_masks`` is False), and "not tried"
        without a shape. If no layer gets faster, the table is empty and the module is
        unchanged.

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

    Two effects concern the whole process: :func:`share_cores` is called, and the C
    library keeps freed blocks of up to 32 MiB for the next pass instead of returning
    them to the system. Set the environment variable
    ``BRAINDECODE_SAM_KEEP_MEMORY=0`` to prevent the latter.

    The original layers run under ``torch.compile``, export, tracing, scripting and
    ``torch.func``, in half precision, and on devices other than CPU and CUDA or ROCm,
    where only fronts can get faster. First layers are not deferred if the windows
    require gradients, if a forward hook may read their output, or in activation
    checkpointing. Windows must not be modified in place while the first layers run;
    this raises RuntimeError.

    An FFT reads whole windows: a NaN or an infinite value makes all outputs of its
    window NaN, and rounding errors are relative to the largest value of a window.

    Only layers of torch's own classes are replaced, with a parametrization or without:
    ``Conv1d`` and ``Conv2d`` over one axis with stride 1 and zero padding, of all
    channels or of each, ``ELU`` with its default ``alpha``, and ``Dropout``. Functions
    such as ``torch.nn.functional.elu`` stay as they are.

    The classes of replaced layers are subclasses of torch's. Run code that compares
    types, such as ``type(layer) is torch.nn.Conv2d`` or fusion and quantization in
    ``torch.ao``, before ``speed_up`` or after ``unspeed``. Forward hooks also receive
    the window of zeros.

    :doc:`/guide/mathematics` derives the cheaper order.

    Examples
    --------
    >>> from braindecode.models import EEGNet
    >>> from braindecode_sam import speed_up
    >>> model = EEGNet(
    ...     n_chans=8, n_outputs=2, n_times=250, final_layer_with_constraint=True)
    >>> layers = speed_up(model).set_index("layer")
    >>> pattern, train_from, predict_from = layers.loc["conv_temporal"]
    >>> pattern, int(train_from), int(predict_from)
    ('depthwise', 17, 18)
    """
    _check_arguments(module, input_shape)
    is_forced = os.environ.get(FORCE, "0") == "1" if force is None else force
    names = _replace_layers(module, is_forced, exact_masks)
    rows = []
    for unit, shape in _units(module, input_shape):
        inside = {m: names.pop(m) for m in unit.modules() if m in names}
        if inside:
            try:
                rows += _try(unit, shape, inside)
            except Exception as error:  # a forward may raise anything
                for layer in inside:
                    restore(layer)
                if input_shape is not None:
                    raise
                log.info("%s is unchanged: %s", type(unit).__name__, error)
    rows += [(name, "not tried", None, None) for name in names.values()]
    if rows:
        keep_freed_memory()
        allow_pickling(module)
        log.info("share_cores: %s", share_cores())
    found = pd.DataFrame(rows, columns=["layer", "pattern", *_BATCHES])
    found = found.astype(dict.fromkeys(_BATCHES, "Int64"))  # which can be missing
    for layer, pattern, *_ in rows:
        log.info("%s gets faster: %s", layer, pattern)
    if verbose:
        print(found.to_string(index=False) if rows else "No layer gets faster.")
    return found


_BATCHES = "train_from", "predict_from"


@functools.cache
def keep_freed_memory() -> None:
    """Make glibc keep freed blocks of up to 32 MiB for the rest of the process.

    By default glibc returns blocks of 128 KiB and more to the system, which clears
    their pages on the next allocation. The threshold follows the largest block freed so
    far, up to 32 MiB.
    """
    if os.environ.get("BRAINDECODE_SAM_KEEP_MEMORY", "1") != "0":
        # Never written, freed at once.
        torch.empty(32 * 2**20 - 2**16, dtype=torch.uint8, device="cpu")


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
    >>> layers = speed_up(model)["layer"].tolist()
    >>> unspeed(model) == layers
    True
    """
    names = [n for n, m in module.named_modules() if isinstance(m, Faster)]
    for name in names:
        restore(module.get_submodule(name))
    return names


def is_sped_up(module: torch.nn.Module) -> bool:
    """Return whether a module has layers that :func:`speed_up` replaced."""
    return any(isinstance(layer, Faster) for layer in module.modules())


def _replace_layers(
    module: torch.nn.Module, is_forced: bool, has_exact_masks: bool
) -> dict[torch.nn.Module, str]:
    """Give layers the first class that suits them; return their names."""
    classes: tuple[Any, ...]
    classes = WaitingConv2d, FFTConv2d, FFTConv1d, ELUByExp, DropoutReplay
    names = {}
    memory = MomentsMemory()
    for name, layer in module.named_modules():
        restore(layer)
        for cls in classes:
            if cls.original is class_of(layer) and cls.can_replace(layer):
                replace(layer, cls, Settings(name, is_forced, has_exact_masks))
                names[layer] = name
                break
        if isinstance(layer, WaitingConv2d):
            layer.source = Source(memory)
            memory.capacity += 1
    return names


def _units(
    module: torch.nn.Module, input_shape: tuple[int, ...] | None
) -> Iterator[tuple[torch.nn.Module, tuple[int, ...]]]:
    """Find the outermost modules whose input shapes are known."""
    if input_shape is not None:
        yield module, input_shape
        return
    try:
        shape = tuple(cast(Any, module.input_shape))
    except (AttributeError, TypeError, ValueError):  # others may mean anything by it
        for child in module.children():
            yield from _units(child, None)
    else:
        yield module, shape


def _try(
    unit: torch.nn.Module, shape: tuple[int, ...], layers: dict[Any, str]
) -> list[tuple[Any, ...]]:
    """Run a module once, and restore the layers that do not get faster."""
    some = next(unit.parameters(), torch.empty(0))
    is_lazy = any(map(is_lazy_tensor, [*unit.parameters(), *unit.buffers()]))
    if is_lazy or some.dtype not in DTYPES or some.device.type not in DEVICES:
        return [(name, "not tried", None, None) for name in layers.values()]
    x = torch.zeros(1, *shape[1:], device=some.device, dtype=some.dtype)
    with _evaluating(unit, x.device), _recording() as shapes:
        output = unit(x)  # may hold the maps of a layer
    rows = []
    for layer, name in layers.items():
        if isinstance(layer, WaitingConv2d):
            reason = layer.source.reason_not_to_wait()
            if reason is not None:
                log.info("%s is not deferred: %s", name, reason)
                replace(layer, FFTConv2d, layer.settings)
        batches = _smallest_batches(layer, shapes.get(layer), x)
        if layer in shapes and (layer.settings.is_forced or any(batches)):
            pattern = layer.pattern
            if isinstance(layer, WaitingConv2d):
                is_depthwise = layer.source.front.is_depthwise
                pattern = "depthwise" if is_depthwise else "merged kernel"
            rows.append((name, pattern, *batches))
        else:
            restore(layer)
            log.info("%s stays the original layer", name)
    del output
    return rows


def _smallest_batches(
    layer: Any, shape: torch.Size | None, x: torch.Tensor
) -> list[int | None]:
    described = None if shape is None else layer.describe(shape)
    if described is None:
        return [None, None]
    what, of_one = described
    train_from, predict_from = (
        _cost.smallest_batch(what, of_one, is_training, x.dtype, x.device.type)
        for is_training in (True, False)
    )
    return [train_from, None if isinstance(layer, DropoutReplay) else predict_from]


@contextlib.contextmanager
def _recording() -> Iterator[dict[Any, torch.Size]]:
    """Record the shapes of inputs, and which modules return pending outputs."""
    shapes: dict[Any, torch.Size] = {}

    def record(module: torch.nn.Module, args: Any, output: object) -> None:
        if isinstance(module, Faster) and args:
            shapes[module] = args[0].shape
        if isinstance(output, Pending):
            for source in output.deferred.sources:
                is_own = getattr(module, "source", None) is source
                if not is_own and module not in source.behind:
                    source.behind = (*source.behind, module)

    record.ignores_output = True  # type: ignore[attr-defined]
    handle = register_module_forward_hook(record)
    try:
        yield shapes
    finally:
        handle.remove()


@contextlib.contextmanager
def _evaluating(module: torch.nn.Module, device: torch.device) -> Iterator[None]:
    """Run a module in evaluation mode, and restore its state afterwards."""
    training = {m: m.training for m in module.modules()}
    # A forward may also change weights, such as those that have a largest norm.
    tensors = [(t, t.clone()) for t in (*module.buffers(), *module.parameters())]
    for m in training:
        m.training = False
    try:
        gpus = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(gpus), torch.no_grad():
            yield
    finally:
        for m, mode in training.items():
            m.training = mode
        with torch.no_grad():
            for tensor, before in tensors:
                if not torch.equal(tensor, before):
                    tensor.copy_(before)
