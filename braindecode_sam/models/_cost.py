"""Whether a faster implementation pays, decided from shapes alone.

The time of an implementation is estimated as the sum of what it does, such as kernel
launches and multiply-adds, each times its cost. This is arithmetic with integers.
Nothing is timed at run time, so every run makes the same choice.
"""

from __future__ import annotations

import bisect
import functools
import os
from collections import Counter
from typing import NamedTuple

import torch

# Femtoseconds for each unit of work in float32, on one thread. Those of a CPU are what
# benchmarks/fit_costs.py printed. Those of GPUs are estimates from data sheets: 8
# microseconds a launch, 20 TFLOP/s and 2 TB/s. They are those of a fast GPU, on which
# the original layers are faster more often.
COSTS = {
    "cpu": {
        "layer": 57_600_000_000,  # call of an original layer
        "layer_backward": 147_000_000_000,
        "kernel": 17_300_000_000,  # operation of a faster implementation
        "mac": 32_500,  # multiply-add of a convolution
        "mac_single": 47_300,  # of a convolution with one input channel
        "mac_depthwise": 268_000,
        "value": 180_000,  # output of a layer
        "value_backward": 2_340_000,
        "product": 87_000,  # multiply-add of a projection
        "butterfly": 392_000,  # of an FFT
        "wave": 57_000,  # multiply-add that transforms a filter
        "edge": 6_960_000,  # value in float64 for the ends of windows
    },
    "cuda": {
        "layer": 16_000_000_000,
        "layer_backward": 32_000_000_000,
        "kernel": 8_000_000_000,
        "mac": 100,
        "mac_single": 100,
        "mac_depthwise": 300,
        "value": 4_000,
        "value_backward": 8_000,
        "product": 100,
        "butterfly": 1_000,
        "wave": 100,
        "edge": 10_000,
    },
}
_LAUNCHES = ("layer", "layer_backward", "kernel")
# An estimate errs by about 20 %, so the faster way must win by that much.
MARGIN = 5, 4
LARGEST = 1024  # windows in a batch

Work = Counter[str]  # units of each kind


class Stage(NamedTuple):
    """A convolution over time, and whether its output is normalized."""

    n_filters: int
    n_taps: int
    n_padded: int
    is_normalized: bool


class Front(NamedTuple):
    """Branches of convolutions over time, and the one over channels that reads them."""

    branches: tuple[tuple[Stage, ...], ...]
    n_outputs: int
    is_depthwise: bool


class Windows(NamedTuple):
    """A batch of windows, and whether gradients follow."""

    batch: int
    n_chans: int
    n_times: int
    is_training: bool

    @property
    def n_passes(self) -> int:
        """A backward pass does what a forward pass does, for two gradients."""
        return 3 if self.is_training else 1


def is_forced(force: bool | None) -> bool:
    """Return whether the faster way is taken even where it does not pay."""
    return os.environ.get(FORCE, "0") == "1" if force is None else force


FORCE = "BRAINDECODE_SAM_FORCE"


def _pays(original: Work, fast: Work, dtype: torch.dtype, device_type: str) -> bool:
    before, after = (estimate(work, dtype, device_type) for work in (original, fast))
    return MARGIN[0] * after < MARGIN[1] * before


def estimate(work: Work, dtype: torch.dtype, device_type: str) -> int:
    """Estimate the femtoseconds that some work takes on one thread.

    Parameters
    ----------
    work : collections.Counter
        Number of units of each kind in `COSTS`.
    dtype : torch.dtype
        In float64, everything but launches costs twice as much.
    device_type : str
        Key of `COSTS`.

    Returns
    -------
    time : int
        Femtoseconds.
    """
    costs, factor = COSTS[device_type], 2 if dtype == torch.float64 else 1
    return sum(
        n * costs[unit] * (1 if unit in _LAUNCHES else factor)
        for unit, n in work.items()
    )


@functools.lru_cache(maxsize=4096)
def front_pays(
    front: Front, windows: Windows, dtype: torch.dtype, device_type: str
) -> bool:
    """Return whether to project the channels first, and filter then.

    Examples
    --------
    >>> import torch
    >>> eegnet = Front(((Stage(8, 64, 63, True),),), n_outputs=16, is_depthwise=True)
    >>> [
    ...     front_pays(eegnet, Windows(16, 22, 500, True), torch.float32, device_type)
    ...     for device_type in ("cpu", "cuda")]
    [True, False]
    """
    return _pays(*front_works(front, windows), dtype, device_type)


def smallest_batch(
    front: Front,
    n_chans: int,
    n_times: int,
    is_training: bool,
    dtype: torch.dtype,
    device_type: str,
) -> int | None:
    """Return the smallest batch that pays, or None if it exceeds `LARGEST`."""

    def pays(batch: int) -> bool:
        windows = Windows(batch, n_chans, n_times, is_training)
        return front_pays(front, windows, dtype, device_type)

    # Once it pays, it does for more windows too, since both times grow linearly.
    found = bisect.bisect_left(range(LARGEST + 1), True, lo=1, key=pays)
    return found if found <= LARGEST else None


def front_works(front: Front, windows: Windows) -> tuple[Work, Work]:
    """Count what the original layers do, and what the deferred computation does."""
    return _filter_then_project(front, windows), _project_then_filter(front, windows)


def _filter_then_project(front: Front, windows: Windows) -> Work:
    n_rows = windows.batch * windows.n_chans
    n_last = sum(branch[-1].n_filters for branch in front.branches)
    work: Work = Counter(layer=1, layer_backward=int(windows.is_training))
    for branch in front.branches:
        n_inputs, n_out = 1, windows.n_times
        for stage in branch:
            n_out += stage.n_padded - stage.n_taps + 1
            n_values = n_rows * n_out * stage.n_filters
            n_layers = 1 + stage.is_normalized
            kind = "mac_single" if n_inputs == 1 else "mac"
            work[kind] += windows.n_passes * n_values * n_inputs * stage.n_taps
            work["layer"] += n_layers
            work["value"] += n_layers * n_values
            if windows.is_training:
                work["layer_backward"] += n_layers
                work["value_backward"] += n_layers * n_values
            n_inputs = stage.n_filters
        if front.is_depthwise:
            kind, n_projections = "mac_depthwise", front.n_outputs * n_inputs // n_last
        else:
            kind, n_projections = "mac", front.n_outputs * n_inputs
        work[kind] += windows.n_passes * n_rows * n_out * n_projections
    return work


def _project_then_filter(front: Front, windows: Windows) -> Work:
    batch, n_chans, n_times, is_training = windows
    n_last = sum(branch[-1].n_filters for branch in front.branches)
    work: Work = Counter()
    for branch in front.branches:
        n_norms = sum(stage.is_normalized for stage in branch)
        n_taps = 1 + sum(stage.n_taps - 1 for stage in branch)
        # As counted by benchmarks/speed_up.py --kernels, rounded.
        n_first, n_each = (60, 60) if is_training else (20, 15)
        work["kernel"] += n_first + n_each * (n_norms + len(branch) - 1)
        n_samples = windows.n_passes * batch * n_times
        if front.is_depthwise:
            n_projections = front.n_outputs * branch[-1].n_filters // n_last
            work["product"] += n_samples * n_projections * n_chans
            n_butterflies = _butterflies(n_times + n_taps)
            work["butterfly"] += (
                windows.n_passes * batch * n_projections * n_butterflies
            )
        elif any(stage.n_padded for stage in branch):  # not by FFT
            work["mac"] += n_samples * n_chans * front.n_outputs * n_taps
        else:
            length = n_times + n_taps
            work += _fft_work(n_chans, front.n_outputs, n_taps, length, windows)
        for stage in branch[1:]:
            n_ends = stage.n_filters * stage.n_taps
            work["edge"] += windows.n_passes * n_ends * (n_taps + stage.n_taps)
        if is_training and n_norms:  # covariance of the windows
            work["mac"] += batch * n_chans * n_times * (n_taps + 32)
    return work


@functools.lru_cache(maxsize=4096)
def fft_pays(
    n_inputs: int,
    n_outputs: int,
    n_taps: int,
    dilation: int,
    windows: Windows,
    dtype: torch.dtype,
) -> bool:
    """Return whether a convolution over one row of samples is faster by FFT on a CPU.

    Examples
    --------
    >>> import torch
    >>> [
    ...     fft_pays(64, 64, n_taps, 1, Windows(32, 1, 500, True), torch.float32)
    ...     for n_taps in (3, 64)]
    [False, True]
    """
    works = convolution_works(n_inputs, n_outputs, n_taps, dilation, windows)
    return _pays(*works, dtype, "cpu")


def convolution_works(
    n_inputs: int, n_outputs: int, n_taps: int, dilation: int, windows: Windows
) -> tuple[Work, Work]:
    """Count what torch's convolution does, and what that by FFT does."""
    is_training = int(windows.is_training)
    n_values = windows.batch * windows.n_times * n_outputs
    original: Work = Counter(
        layer=1,
        layer_backward=is_training,
        mac=windows.n_passes * n_values * n_inputs * n_taps,
        value=n_values,
        value_backward=is_training * n_values,
    )
    length = windows.n_times + dilation * (n_taps - 1)
    fast = _fft_work(n_inputs, n_outputs, n_taps, length, windows)
    fast["kernel"] = 10 * windows.n_passes
    return original, fast


def _fft_work(
    n_inputs: int, n_outputs: int, n_taps: int, length: int, windows: Windows
) -> Work:
    n_signals = windows.batch * (n_inputs + n_outputs)
    n_pairs = n_inputs * n_outputs * length
    return Counter(
        butterfly=windows.n_passes * n_signals * _butterflies(length),
        # Four for each complex product, at half as many frequencies as samples.
        mac=windows.n_passes * windows.batch * 2 * n_pairs,
        wave=(1 + windows.is_training) * n_pairs * n_taps,
    )


def _butterflies(length: int) -> int:
    return length * length.bit_length()
