"""Measure what units of work cost on this CPU, for ``models/_cost.py``.

Fronts of models, convolutions, ELU and dropout of random sizes run in the original and
in the faster way, interleaved, on one thread. The costs minimize the errors of the
logarithms of the estimated times. The table shows the costs in femtoseconds. Below it
is shown how well the estimates fit, and how often they choose the slower way.
"""

import argparse
import copy
import functools
import math
import random
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from _report import cpu_medians, print_with_machine
from scipy.optimize import least_squares
from torch import nn

from braindecode_sam import speed_up
from braindecode_sam.models import _cost

# Multiply-adds and values of a case, so that it takes less than a second.
MOST = 1.5e9, 1e7

FRONTS = [  # filters, taps, normalized; second convolution; outputs; depthwise; padded
    (8, 64, True, None, 16, True, True),  # EEGNet
    (16, 64, True, None, 32, True, True),  # ATCNet
    (40, 25, False, None, 40, False, False),  # EEGConformer
    (8, 64, True, (32, 64), 64, True, True),  # EEGNeX
    (8, 32, True, (32, 32), 64, True, True),
]


class Case(NamedTuple):
    """Layers, the size of one window, and the works of the original and faster way."""

    layers: nn.Sequential
    shape: tuple
    n_macs: int
    n_values: int
    works: Callable


def random_front(rng):
    """Draw convolutions over time and over channels, as models begin with."""
    n_chans = rng.choice([2, 3, 4, 6, 8, 16, 22, 32, 64])
    n_times = rng.choice([64, 100, 128, 200, 250, 400, 500, 1000])
    n_filters, n_taps, norm, second, n_outputs, is_depthwise, padded = (
        rng.choice(FRONTS) if rng.random() < 0.5 else random_layers(rng)
    )
    sizes = [(n_filters, n_taps), *([second] if second else [])]
    if sum(n for _, n in sizes) > n_times - 8:
        return random_front(rng)
    layers, stages, n_macs, n_inputs = [], [], 0, 1
    for n, taps in sizes:
        padding = "same" if padded else 0
        layers.append(nn.Conv2d(n_inputs, n, (1, taps), padding=padding, bias=not norm))
        layers += [nn.BatchNorm2d(n)] if norm else []
        stages.append(_cost.Stage(n, taps, taps - 1 if padded else 0, norm))
        n_macs += n * n_inputs * taps * n_chans * n_times
        n_inputs = n
    groups = n_inputs if is_depthwise else 1
    layers.append(nn.Conv2d(n_inputs, n_outputs, (n_chans, 1), groups=groups))
    front = _cost.Front((tuple(stages),), n_outputs, is_depthwise)

    def works(n_windows, is_training):
        shape = n_windows, n_chans, n_times - _cost.n_lost(stages)
        return front.works(shape, is_training, "cpu")

    size = n_macs, n_chans * n_times
    return Case(nn.Sequential(*layers), (1, n_chans, n_times), *size, works)


def random_layers(rng):
    """Draw the layers of a front that no model has."""
    n_filters, is_depthwise = rng.choice([4, 8, 12, 16, 32, 40]), rng.random() < 0.8
    second = None
    if is_depthwise and rng.random() < 0.25:
        second = rng.choice([8, 16, 32]), rng.choice([8, 16, 32, 64])
    n_last = second[0] if second else n_filters
    n_outputs = n_last * rng.choice([1, 2, 4]) if is_depthwise else 40
    padded = is_depthwise and rng.random() < 0.8
    n_taps, norm = rng.choice([8, 15, 25, 32, 50, 64, 125]), rng.random() < 0.85
    return n_filters, n_taps, norm, second, n_outputs, is_depthwise, padded


def random_convolution(rng):
    """Draw a convolution over time, of all channels or of each."""
    n_inputs = rng.choice([1, 1, 2, 8, 16, 32, 64, 128])
    is_depthwise = n_inputs > 2 and rng.random() < 0.25
    n_outputs = n_inputs if is_depthwise else rng.choice([8, 16, 32, 64, 128])
    n_taps = rng.choice([3, 5, 8, 16, 32, 64, 125, 225])
    dilation, n_rows = rng.choice([1, 1, 2, 4]), rng.choice([1, 1, 4, 22])
    n_times = rng.choice([16, 32, 64, 125, 250, 500, 1000])
    is_padded = rng.random() < 0.7
    if not is_padded and dilation * (n_taps - 1) > n_times / 2:
        return random_convolution(rng)
    padding = "same" if is_padded else "valid"
    layer = nn.Conv2d(
        n_inputs, n_outputs, (1, n_taps), padding=padding, dilation=(1, dilation),
        groups=n_inputs if is_depthwise else 1,
    )  # fmt: skip
    what = _cost.Convolution(
        n_inputs, n_outputs, n_taps, dilation,
        dilation * (n_taps - 1) if is_padded else 0, is_depthwise,
    )  # fmt: skip

    def works(n_windows, is_training):
        return what.works((n_windows, n_rows, n_times), is_training, "cpu")

    n_macs = n_inputs * n_outputs * n_taps * n_times * n_rows
    n_macs = n_macs // n_inputs if is_depthwise else n_macs
    size = n_macs, n_outputs * n_rows * n_times
    return Case(nn.Sequential(layer), (n_inputs, n_rows, n_times), *size, works)


def random_values(rng):
    """Draw a number of values for ELU or dropout."""
    shape = rng.choice([8, 16, 32, 64]), rng.choice([8, 32, 125, 500, 2000])
    is_elu = rng.random() < 0.5
    what = _cost.Values("expm1", "exp") if is_elu else _cost.Values("bernoulli", "bits")

    def works(n_windows, is_training):
        return what.works((n_windows, *shape), is_training, "cpu")

    layer = nn.ELU() if is_elu else nn.Dropout()
    return Case(nn.Sequential(layer), shape, 0, math.prod(shape), works)


def sped_up(case):
    """Return a copy of the layers that always takes the faster way."""
    fast = copy.deepcopy(case.layers)
    speed_up(fast, input_shape=(1, *case.shape), force=True, exact_masks=False)
    return fast


def make_run(model, is_training):
    """Build a function that makes a forward pass, and a backward pass in training."""

    def run(x):
        with torch.set_grad_enabled(is_training):
            y = model(x)
        if is_training:
            y.sum().backward()

    return run


def measure_random(seconds, seed):
    """Measure random cases for some seconds: ((works), (times)) of both ways.

    Every second case is in the first list, the others are in the second one.
    """
    rng, measured, others = random.Random(seed), [], []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        draws = [random_front, random_front, random_convolution, random_convolution]
        draw = rng.choice([*draws, random_values])
        case, n_windows = draw(rng), rng.choice([1, 2, 4, 8, 16, 32, 64])
        sizes = n_windows * case.n_macs, n_windows * case.n_values
        if any(size > most for size, most in zip(sizes, MOST, strict=True)):
            continue
        models = case.layers, sped_up(case)
        for is_training in (True,) if draw is random_values else (False, True):
            runs = {m: make_run(m.train(is_training), is_training) for m in models}
            # The windows need no gradient, inputs of later layers do.
            make_input = functools.partial(
                torch.randn, n_windows, *case.shape,
                requires_grad=is_training and draw is not random_front,
            )  # fmt: skip
            ms = cpu_medians(runs, make_input, seconds=0.1).values()
            times = [value * 1e12 for value in ms]  # femtoseconds
            measured.append((case.works(n_windows, is_training), times))
        measured, others = others, measured
    return measured, others


def fit(measured):
    """Return the cost of each unit that minimizes the errors of log times."""
    works = [work for pair, _ in measured for work in pair]
    times = np.array([time for _, pair in measured for time in pair])
    units = list(_cost.COSTS["cpu"])
    counts = np.array([[work[unit] for unit in units] for work in works], float)
    in_use = np.log(list(_cost.COSTS["cpu"].values()))

    def errors(logarithms):
        return np.log(counts @ np.exp(logarithms) / times)

    costs = np.exp(least_squares(errors, in_use, loss="soft_l1").x)
    return dict(zip(units, costs, strict=True))


def describe(measured, costs):
    """Print how well the costs predict the times, and what is lost by the errors."""
    estimates = np.array(
        [
            [_cost.estimate(work, costs, torch.float32) for work in pair]
            for pair, _ in measured
        ]
    )
    times = np.array([pair for _, pair in measured])
    for i, way in enumerate(("original", "faster")):
        quantiles = np.quantile(estimates[:, i] / times[:, i], [0.05, 0.25, 0.75, 0.95])
        text = ", ".join(f"{q:.2f}" for q in quantiles)
        print(f"estimated / measured, {way} way, 5, 25, 75, 95 %: {text}")
    chosen = _cost.MARGIN[0] * estimates[:, 1] < _cost.MARGIN[1] * estimates[:, 0]
    slowdown = (times[:, 1] / times[:, 0])[chosen]
    missed = (times[:, 0] / times[:, 1])[~chosen]
    print(f"{len(measured)} cases, the faster way is chosen in {chosen.sum()}")
    print(f"chosen, but over 1.1 times slower: {(slowdown > 1.1).sum()}", end=", ")
    print(f"at most {slowdown.max():.2f} times")
    print(f"not chosen, but over 1.5 times faster: {(missed > 1.5).sum()}", end=", ")
    print(f"at most {missed.max():.2f} times")


def main():
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=240.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--csv", help="also write the table to this file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    fitted, others = measure_random(args.seconds, args.seed)
    costs = fit(fitted)
    rows = [
        {"unit": unit, "fs here": round(cost), "fs in use": _cost.COSTS["cpu"][unit]}
        for unit, cost in costs.items()
    ]
    print_with_machine(rows, args.csv)
    for name, used in (("fitted here", costs), ("in use", _cost.COSTS["cpu"])):
        print(f"\nWith the costs {name}, on cases that were not fitted here:")
        describe(others, used)


if __name__ == "__main__":
    main()
