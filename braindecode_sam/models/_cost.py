"""Whether a faster implementation pays, decided from shapes alone.

The time of an implementation is estimated as the sum of what it does, such as kernel
launches and multiply-adds, each times its cost. This is arithmetic with integers.
Nothing is timed at run time, so every run makes the same choice.
"""

from __future__ import annotations

import bisect
import functools
import math
from collections import Counter
from typing import NamedTuple

import torch

# Femtoseconds for each unit of work in float32, on one thread. Those of a CPU are what
# benchmarks/fit_costs.py printed. Those of GPUs are estimates from data sheets: two
# launches of 8 microseconds for a layer and four for its backward pass, 20 TFLOP/s and
# 2 TB/s. On such a fast GPU, the faster way pays less often than on others.
COSTS = {
    "cpu": {
        "layer": 76_200_000_000,  # call of an original layer
        "layer_backward": 222_000_000_000,
        "kernel": 24_500_000_000,  # operation of a faster implementation
        "mac": 41_500,  # multiply-add of a convolution
        "mac_single": 50_100,  # of a convolution with one input channel
        "mac_wide": 30_000,  # with 64 and more channels
        "mac_depthwise": 440_000,
        "value": 286_000,  # output of a layer
        "value_backward": 3_080_000,
        "product": 146_000,  # multiply-add of a projection
        "butterfly": 358_000,  # of an FFT
        "matrix": 457_000,  # multiply-add of complex numbers
        "edge": 8_420_000,  # value in float64 for the ends of windows
        "expm1": 11_700_000,  # value of torch's ELU, with AVX512
        "exp": 3_370_000,  # value of an ELU by exp
        "bernoulli": 17_100_000,  # value of torch's dropout mask
        "bits": 4_920_000,  # value of a mask from random bits
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
        "edge": 10_000,
    },
}
# The faster way must win by a quarter, since estimates err.
MARGIN = 5, 4
LARGEST = 1024  # windows in a batch

Work = Counter[str]  # units of each kind
Works = tuple[Work, Work]  # in the original and in the faster way
Shape = tuple[int, ...]


class Stage(NamedTuple):
    """A convolution over time, and whether its output is normalized."""

    n_filters: int
    n_taps: int
    n_padded: int
    is_normalized: bool


Branch = tuple[Stage, ...]


class Front(NamedTuple):
    """Branches of convolutions over time, and the one over channels that reads them.

    Its shape is that of the windows without padding of its own: their number, channels,
    and the samples of the output.
    """

    branches: tuple[Branch, ...]
    n_outputs: int
    is_depthwise: bool

    def works(self, shape: Shape, is_training: bool, device_type: str) -> Works:
        """Count the work of the original layers, and of the deferred computation."""
        deferred = self._project_then_filter(shape, is_training, device_type)
        return self._filter_then_project(shape, is_training), deferred

    def _n_projections(self, branch: Branch) -> int:
        n_last = sum(branch[-1].n_filters for branch in self.branches)
        return self.n_outputs * branch[-1].n_filters // n_last

    def _filter_then_project(self, shape: Shape, is_training: bool) -> Work:
        n_windows, n_chans, n_last_out = shape
        # Forward, and backward for the gradients of weights and of inputs, which the
        # windows do not need.
        n_passes, n_passes_of_first = (3, 2) if is_training else (1, 1)
        work: Work = Counter(layer=1, layer_backward=int(is_training))
        for branch in self.branches:
            n_inputs, n_out = 1, n_last_out + n_lost(branch)
            for stage in branch:
                n_out += stage.n_padded - stage.n_taps + 1
                n_values = n_windows * n_chans * n_out * stage.n_filters
                n_macs = n_values * n_inputs * stage.n_taps
                if n_inputs == 1:
                    work["mac_single"] += n_passes_of_first * n_macs
                else:
                    work["mac"] += n_passes * n_macs
                n_layers = 1 + stage.is_normalized
                work["layer"] += n_layers
                work["value"] += n_layers * n_values
                work["layer_backward"] += is_training * n_layers
                work["value_backward"] += is_training * n_layers * n_values
                n_inputs = stage.n_filters
            n_values = n_passes * n_windows * n_chans * n_out
            if self.is_depthwise:
                work["mac_depthwise"] += n_values * self._n_projections(branch)
            else:
                work["mac"] += n_values * self.n_outputs * n_inputs
        return work

    def _project_then_filter(
        self, shape: Shape, is_training: bool, device_type: str
    ) -> Work:
        n_windows, n_chans, n_out = shape
        n_passes, n_passes_of_first = (3, 2) if is_training else (1, 1)
        work: Work = Counter()
        for branch in self.branches:
            n_norms = sum(stage.is_normalized for stage in branch)
            n_taps = 1 + sum(stage.n_taps - 1 for stage in branch)
            n_padded = sum(stage.n_padded for stage in branch)
            n_times = n_out + n_lost(branch)
            n_values = n_windows * n_times * n_chans
            # Rounded counts of operations that are not views.
            n_first, n_each = (60, 60) if is_training else (20, 15)
            work["kernel"] += n_first + n_each * (n_norms + len(branch) - 1)
            if self.is_depthwise:
                n_signals = n_windows * self._n_projections(branch)
                butterflies = n_signals * _butterflies(n_times + n_taps)
                n_macs = n_values * self._n_projections(branch)
                work["product"] += n_passes_of_first * n_macs
                work["butterfly"] += n_passes * butterflies
            elif device_type == "cpu":
                merged = Convolution(
                    n_chans, self.n_outputs, n_taps, 1, n_padded, False
                )
                work += merged.by_fft(n_windows, n_times, is_training)
            else:
                work["mac"] += n_passes_of_first * n_values * self.n_outputs * n_taps
            for stage in branch[1:]:
                n_ends = stage.n_filters * stage.n_taps
                work["edge"] += n_passes * n_ends * (n_taps + stage.n_taps)
            if is_training and n_norms:  # covariance of the windows
                work["mac"] += n_values * (n_taps + 32)
        return work


class Convolution(NamedTuple):
    """A convolution over time; its shape is (batch, rows, samples of the input)."""

    n_inputs: int
    n_outputs: int
    n_taps: int
    dilation: int
    n_padded: int
    is_depthwise: bool

    def works(self, shape: Shape, is_training: bool, device_type: str) -> Works:
        """Count what torch's convolution does, and what that by FFT does."""
        n_windows, n_rows, n_times = shape
        n_signals, n_out = n_windows * n_rows, n_times + self.n_padded - self.span
        n_values = n_signals * n_out * self.n_outputs
        if self.is_depthwise:
            kind, n_macs = "mac_depthwise", n_values * self.n_taps
        else:
            is_wide = min(self.n_inputs, self.n_outputs) >= 64
            kind = "mac_wide" if is_wide else "mac"
            kind = "mac_single" if self.n_inputs == 1 else kind
            n_macs = n_values * self.n_inputs * self.n_taps
        original: Work = Counter(
            layer=1,
            layer_backward=int(is_training),
            value=n_values,
            value_backward=is_training * n_values,
        )
        original[kind] = (3 if is_training else 1) * n_macs
        return original, self.by_fft(n_signals, n_times, is_training)

    def by_fft(self, n_signals: int, n_times: int, is_training: bool) -> Work:
        """Count what a convolution by FFT does."""
        length = n_times + self.n_padded // 2
        n_filters = self.n_outputs * (1 if self.is_depthwise else self.n_inputs)
        n_transformed = n_signals * (self.n_inputs + self.n_outputs) + n_filters
        n_passes = 2 if is_training else 1  # the spectra are kept
        is_pointwise = self.is_depthwise or self.n_inputs == 1  # takes little time
        n_products = 0 if is_pointwise else n_signals * n_filters * length // 2
        return Counter(
            kernel=10 * n_passes,
            butterfly=n_passes * n_transformed * _butterflies(length),
            matrix=(3 if is_training else 1) * n_products,
        )

    @property
    def span(self) -> int:
        """Samples between the first and the last tap."""
        return self.dilation * (self.n_taps - 1)


class Values(NamedTuple):
    """A function of single values, of which torch's implementation is slow."""

    slow: str
    fast: str

    def works(self, shape: Shape, is_training: bool, device_type: str) -> Works:
        """Count what torch's implementation does, and what the faster one does."""
        n_values = math.prod(shape)
        original = Counter({"kernel": 1, self.slow: n_values})
        return original, Counter({"kernel": 3, self.fast: n_values})


Kind = Front | Convolution | Values


@functools.lru_cache(maxsize=4096)
def pays(
    what: Kind, shape: Shape, is_training: bool, dtype: torch.dtype, device_type: str
) -> bool:
    """Return whether the faster implementation is faster for inputs of a shape.

    Examples
    --------
    >>> import torch
    >>> eegnet = Front(((Stage(8, 64, 63, True),),), n_outputs=16, is_depthwise=True)
    >>> [
    ...     pays(eegnet, (16, 22, 500), True, torch.float32, device_type)
    ...     for device_type in ("cpu", "cuda")]
    [True, False]
    """
    costs = COSTS.get(device_type)
    if costs is None or not (device_type == "cpu" or isinstance(what, Front)):
        return False
    works = what.works(shape, is_training, device_type)
    before, after = (estimate(work, costs, dtype) for work in works)
    return MARGIN[0] * after < MARGIN[1] * before


def smallest_batch(
    what: Kind, shape: Shape, is_training: bool, dtype: torch.dtype, device_type: str
) -> int | None:
    """Return the smallest batch that pays, or None if it exceeds `LARGEST`.

    `shape` is that for one window.
    """

    def suffices(n_windows: int) -> bool:
        of_all = (n_windows * shape[0], *shape[1:])
        return pays(what, of_all, is_training, dtype, device_type)

    # The faster way costs more to begin with and less for each window.
    found = 1 + bisect.bisect_left(range(1, LARGEST + 1), True, key=suffices)
    return found if found <= LARGEST else None


def estimate(work: Work, costs: dict[str, int], dtype: torch.dtype) -> int:
    """Estimate the femtoseconds that some work takes on one thread."""
    launches = "layer", "layer_backward", "kernel"
    factor = 2 if dtype == torch.float64 else 1  # of everything but launches
    return sum(
        n * costs[unit] * (1 if unit in launches else factor)
        for unit, n in work.items()
    )


def n_lost(branch: Branch) -> int:
    """Return by how many samples the output is shorter than the windows."""
    return sum(stage.n_taps - 1 - stage.n_padded for stage in branch)


def _butterflies(length: int) -> int:
    return length * length.bit_length()
