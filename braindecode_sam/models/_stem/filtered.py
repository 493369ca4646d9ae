"""Deferred temporal filtering of windows, and the operations that may follow it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor

from braindecode_sam.models._cost import Front, Stage, n_lost
from braindecode_sam.models._stem.linear import (
    Filters,
    Pad,
    compose,
    filter_channels,
    filter_projections,
)
from braindecode_sam.models._stem.moments import (
    MomentsMemory,
    normalize_by,
    statistics_of,
)
from braindecode_sam.models._stem.pending import Deferred, Pending, Source

_CONCATENATIONS = (torch.cat, torch.concat, torch.concatenate)


class Windows:
    """EEG windows (batch, 1, n_chans, n_times), or with channels last."""

    def __init__(self, x: Tensor, time_axis: int, memory: MomentsMemory) -> None:
        self._x, self.time_axis, self.memory = x, time_axis, memory
        self._version = None if x.is_inference() else x._version
        self._signals = x[:, 0] if time_axis == 3 else x[:, 0].mT
        self.batch, self.n_chans, self.n_times = self._signals.shape

    def stock(self) -> Tensor:
        """Return the input tensor; raise if it was modified in place."""
        if self._version is not None and self._x._version != self._version:
            raise RuntimeError(
                "The windows were modified in place between a temporal convolution and"
                " the first use of its output. Modify a copy of them, or undo speed_up"
                " with unspeed."
            )
        return self._x

    def signals(self) -> Tensor:
        """Return the windows as (batch, n_chans, n_times)."""
        self.stock()
        return self._signals

    def output_shape(self, n_filters: int, n_out: int) -> tuple[int, ...]:
        """Return the shape of the original layer's output."""
        sizes = self.n_chans, n_out
        return self.batch, n_filters, *(sizes if self.time_axis == 3 else sizes[::-1])


class Following(NamedTuple):
    """A ``conv2d`` of pending outputs, with axes for channels, then for time."""

    weight: Tensor  # (n_out_filters, n_in_filters / groups, n_chans, n_taps)
    bias: Tensor | None
    pads: tuple[Pad, Pad]  # along channels and along time
    groups: int

    def is_spatial(self, n_chans: int) -> bool:
        """Return whether it has one weight per channel and reads single samples."""
        covers_all = self.weight.shape[2:] == (n_chans, 1)
        return covers_all and self.pads == ((0, 0), (0, 0))


def read_convolution(
    filters: Filtered | Joined,
    input: Any,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Following | None:
    """Parse the arguments of ``conv2d``; None if it skips samples or taps or raises."""
    strides_and_dilations = (*_pair(stride), *_pair(dilation))
    if weight.ndim != 4 or strides_and_dilations != (1, 1, 1, 1):
        return None
    n_out, n_in = weight.shape[:2]
    if (
        groups not in (1, filters.n_filters)
        or n_out % groups
        or n_in * groups != filters.n_filters
        or not (bias is None or bias.shape == (n_out,))
        or not _are_alike(filters, (weight, bias))
    ):
        return None
    pads = pads_of(padding, weight.shape[2:])
    if filters.windows.time_axis == 2:
        weight, pads = weight.mT, (pads[1], pads[0])
    return Following(weight, bias, pads, groups)


def pads_of(padding: Any, kernel_size: Sequence[int]) -> tuple[Pad, Pad]:
    """Return the samples that ``conv2d`` pads before and after each axis."""
    first, second = kernel_size
    if padding == "same":
        return ((first - 1) // 2, first // 2), ((second - 1) // 2, second // 2)
    height, width = _pair(0 if padding == "valid" else padding)
    return (height, height), (width, width)


def _pair(value: Any) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    return (value[0], value[-1])


class Filtered(Deferred):
    """Deferred output of one set of temporal filters, for :class:`Deferred`.

    The filters include the scale and shift of their outputs. `compute` computes the
    output of the original layers, which `stages` describes.
    """

    def __init__(
        self,
        windows: Windows,
        filters: Filters,
        compute: Callable[[], Tensor],
        stages: tuple[Stage, ...],
        **deferred: Any,
    ) -> None:
        self.n_filters = len(filters.interior)
        shape = windows.output_shape(self.n_filters, filters.n_out)
        super().__init__(shape, device=windows.stock().device, **deferred)
        self.windows, self.filters = windows, filters
        self.compute = compute  # type: ignore[method-assign]
        self.stages = stages

    def follow(self, function: Any, args: Any, kwargs: Any) -> Any:
        """Continue with a linear operation or a normalization."""
        if function is torch.conv2d:
            convolution = read_convolution(self, *args, **kwargs)
            if convolution is None:
                return NotImplemented
            if convolution.is_spatial(self.windows.n_chans):
                return project(self, [self], convolution)
            return self._filtered_again(convolution)
        if function is F.batch_norm:
            return self._normalized(*args, **kwargs)
        if function in _CONCATENATIONS:
            return join(*args, **kwargs)
        return NotImplemented

    def _normalized(
        self,
        input: Any,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Any:
        windows, filters = self.windows, self.filters
        count = windows.batch * windows.n_chans * filters.n_out
        n_known = (running_mean is not None) + (running_var is not None)
        tensors = running_mean, running_var, weight, bias
        if (
            count == 1
            or n_known == 1
            or not (training or n_known)
            or eps <= 0
            or any(t is not None and t.shape != (self.n_filters,) for t in tensors)
            or not _are_alike(self, tensors)
        ):
            return NotImplemented  # the original layer raises
        own_weight, own_bias = snapshot(weight), snapshot(bias)
        statistics = None, None
        if training:
            n_lags = min(filters.interior.shape[1], windows.n_times)
            moments = windows.memory.moments_of(windows.signals(), n_lags)
            mean, variance = statistics_of(filters, moments)
            if running_mean is not None and running_var is not None:
                with torch.no_grad():
                    unbiased = momentum * count / (count - 1)
                    running_mean.mul_(1 - momentum).add_(mean, alpha=momentum)
                    running_var.mul_(1 - momentum).add_(variance, alpha=unbiased)
        else:
            mean, variance = snapshot(running_mean), snapshot(running_var)
            statistics = restored(mean, running_mean), restored(variance, running_var)
        normalized = normalize_by(filters, mean, variance, own_weight, own_bias, eps)

        def compute() -> Tensor:
            value = self.value(F.batch_norm)
            return F.batch_norm(
                value, *statistics, restored(own_weight, weight),
                restored(own_bias, bias), training, 0.0, eps,
            )  # fmt: skip

        stages = (*self.stages[:-1], self.stages[-1]._replace(is_normalized=True))
        return self._continued(normalized, compute, (own_weight, own_bias), stages)

    def _filtered_again(self, convolution: Following) -> Any:
        """Continue with a second convolution over time that mixes all filters."""
        constant = self.filters.constant
        if (
            convolution.weight.shape[2] != 1
            or convolution.pads[0] != (0, 0)
            or not (constant is None or constant.shape[1] == 1)
            or convolution.groups != 1
            or self.filters.edges
            or convolution.weight.shape[3]
            > self.filters.n_out + sum(convolution.pads[1])
        ):
            return NotImplemented
        weight, bias = snapshot(convolution.weight), snapshot(convolution.bias)
        filters = compose(self.filters, weight.squeeze(2), bias, convolution.pads[1])
        axis, autocast = self.windows.time_axis, current_autocast(self.device)

        def compute() -> Tensor:
            kernel = restored(weight, convolution.weight)
            kernel = kernel if axis == 3 else kernel.mT
            pads = convolution.pads if axis == 3 else convolution.pads[::-1]
            with autocast():
                x = F.pad(self.value(F.conv2d), (*pads[1], *pads[0]))
                return F.conv2d(x, kernel, restored(bias, convolution.bias))

        n_filters, n_taps = len(weight), weight.shape[3]
        stage = Stage(n_filters, n_taps, sum(convolution.pads[1]), is_normalized=False)
        return self._continued(filters, compute, (weight, bias), (*self.stages, stage))

    def _continued(
        self,
        filters: Filters,
        compute: Callable[[], Tensor],
        inputs: Sequence[Tensor | None],
        stages: tuple[Stage, ...],
    ) -> Tensor:
        return Filtered(
            self.windows, filters, compute, stages,
            dtype=self.dtype, inputs=[*self.inputs, *inputs], sources=self.sources,
        ).pending()  # fmt: skip


class Joined(Deferred):
    """Deferred concatenation of the outputs of several sets of filters."""

    def __init__(self, parts: Sequence[Filtered]) -> None:
        first = parts[0]
        self.parts, self.windows = parts, first.windows
        self.n_filters = sum(part.n_filters for part in parts)
        super().__init__(
            first.windows.output_shape(self.n_filters, first.filters.n_out),
            first.dtype,
            first.device,
            [tensor for part in parts for tensor in part.inputs],
            [source for part in parts for source in part.sources],
        )

    def compute(self) -> Tensor:
        """Concatenate the outputs of the original layers."""
        return torch.cat([part.value(torch.cat) for part in self.parts], dim=1)

    def follow(self, function: Any, args: Any, kwargs: Any) -> Any:
        """Continue with a convolution over all channels."""
        if function is torch.conv2d:
            convolution = read_convolution(self, *args, **kwargs)
            if convolution and convolution.is_spatial(self.windows.n_chans):
                return project(self, self.parts, convolution)
        return NotImplemented


def _are_alike(filters: Filtered | Joined, tensors: Iterable[Tensor | None]) -> bool:
    dtype = filters.windows.stock().dtype
    return all(
        tensor is None or (tensor.dtype == dtype and tensor.device == filters.device)
        for tensor in tensors
    )


def join(tensors: Any, dim: int = 0, **kwargs: Any) -> Any:
    """Concatenate pending outputs along their filters, if all inputs are pending."""
    waiting = [tensor.deferred for tensor in tensors if isinstance(tensor, Pending)]
    parts = [part for part in waiting if isinstance(part, Filtered)]
    layouts = {
        (part.windows.time_axis, part.dtype, part.device, part.shape[0], part.shape[2:])
        for part in parts
    }
    are_alike = len(parts) == len(tensors) and len(layouts) == 1
    if dim not in (1, -3) or kwargs or not are_alike:
        return NotImplemented
    return Joined(parts).pending()


def project(
    deferred: Deferred, parts: Sequence[Filtered], convolution: Following
) -> Any:
    """Continue with a convolution over all channels, depthwise or full."""
    windows, weight = parts[0].windows, convolution.weight.squeeze(3)
    is_depthwise = weight.shape[1] == 1
    if not is_depthwise and any(part.filters.edges for part in parts):
        return NotImplemented
    dtype = windows.stock().dtype
    sizes = [part.n_filters for part in parts]
    if len(sizes) == 1:
        weights = (weight.squeeze(1) if is_depthwise else weight,)
    elif is_depthwise:
        depth = len(weight) // sum(sizes)
        weights = weight.squeeze(1).split([depth * size for size in sizes])
    else:
        weights = weight.split(sizes, dim=1)
    apply = filter_projections if is_depthwise else filter_channels
    with torch.autocast(deferred.device.type, enabled=False):
        ys = [
            apply(part.windows.signals(), part.filters, own_part.to(dtype))
            for part, own_part in zip(parts, weights, strict=True)
        ]
        y = ys[0]
        if len(ys) > 1:
            y = torch.cat(ys, dim=1) if is_depthwise else torch.stack(ys).sum(dim=0)
        if convolution.bias is not None:
            y = y + convolution.bias[:, None].to(dtype)
    front = Front(tuple(part.stages for part in parts), len(weight), is_depthwise)
    for part in parts:
        for source in part.sources:
            source.front, source.n_lost = front, n_lost(part.stages)
    y = y.unsqueeze(2 if windows.time_axis == 3 else 3)
    return y.to(deferred.dtype).contiguous()  # as the original layer does


def defer_convolution(
    source: Source, x: Tensor, weight: Tensor, bias: Tensor | None, padding: Any
) -> Tensor:
    """Defer a convolution over time.

    x has the shape (batch, 1, n_chans, n_times) and the weight (n_filters, 1, 1,
    n_taps), or both have the last two axes swapped. `padding` is that of ``conv2d``;
    the channels have none.
    """
    windows = Windows(x, 3 if weight.shape[2] == 1 else 2, source.memory)
    pad = pads_of(padding, weight.shape[2:])[windows.time_axis - 2]
    own_weight, own_bias = snapshot(weight), snapshot(bias)
    taps = own_weight.flatten(1)
    n_out = windows.n_times + sum(pad) - taps.shape[1] + 1
    constant = None if own_bias is None else own_bias[:, None]
    filters = Filters(taps, -pad[0], windows.n_times, n_out, constant)
    autocast = current_autocast(x.device)
    dtype = x.dtype
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)

    def compute() -> Tensor:
        with autocast():
            return F.conv2d(
                windows.stock(), restored(own_weight, weight), restored(own_bias, bias),
                padding=padding,
            )  # fmt: skip

    stage = Stage(len(taps), taps.shape[1], sum(pad), is_normalized=False)
    return Filtered(
        windows, filters, compute, (stage,),
        dtype=dtype, sources=(source,), inputs=(own_weight, own_bias),
    ).pending()  # fmt: skip


def snapshot(tensor: Tensor | None) -> Any:
    """Copy a parameter to float64, since it may change before its use."""
    return None if tensor is None else tensor.to(torch.float64, copy=True)


def restored(copy: Tensor | None, tensor: Tensor | None) -> Any:
    """Return the values that :func:`snapshot` copied, in the original dtype."""
    return None if copy is None or tensor is None else copy.to(tensor.dtype)


def current_autocast(device: torch.device) -> Callable[[], Any]:
    """Return a context that restores the current state of autocast."""
    is_enabled = torch.is_autocast_enabled(device.type)
    dtype = torch.get_autocast_dtype(device.type) if is_enabled else None
    return functools.partial(
        torch.autocast, device.type, dtype, is_enabled, cache_enabled=False
    )
