"""Measure the throughput of ``EEGRegressor.predict`` with EEGNeX and FastEEGNeX.

The table shows windows per second and the speed-up, from median times of interleaved
runs in one process. Loading the data is included.
"""

import argparse

import numpy as np
import torch
from _report import (
    MODELS,
    SHAPES,
    add_common_arguments,
    interleaved_medians,
    print_with_machine,
)
from braindecode import EEGRegressor


def make_predictor(model, shape, n_batches, device):
    """Build a function that predicts."""
    batch, n_chans, n_times, n_outputs = shape
    torch.manual_seed(0)
    net = EEGRegressor(
        MODELS[model],
        module__n_chans=n_chans,
        module__n_times=n_times,
        module__n_outputs=n_outputs,
        batch_size=batch,
        device=device,
    ).initialize()
    X = np.random.default_rng(0).normal(size=(n_batches * batch, n_chans, n_times))
    X = X.astype(np.float32)
    return lambda: net.predict(X)


def main():
    """Print a table."""
    parser = add_common_arguments(argparse.ArgumentParser(description=__doc__))
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=SHAPES)
    parser.add_argument("--batches", type=int, default=4)
    args = parser.parse_args()
    rows = []
    for name in args.shapes:
        functions = {
            model: make_predictor(model, SHAPES[name], args.batches, args.device)
            for model in MODELS
        }
        times = interleaved_medians(functions, args.repeats, args.device)
        n_windows = args.batches * SHAPES[name][0]
        rows += [
            {
                "windows": name,
                "model": MODELS[model].__name__,
                "windows/s": 1e3 * n_windows / ms,
                "speed-up": times["stock"] / ms,
            }
            for model, ms in times.items()
        ]
    print_with_machine(rows, args.csv)


if __name__ == "__main__":
    main()
