"""What the benchmarks share: interleaved timing, and a table on screen and on disk."""

import csv
import itertools
import os
import platform
import statistics
import subprocess
import sys
import time
import warnings
from pathlib import Path

import torch
from braindecode.models import EEGNeX

from braindecode_sam import FastEEGNeX

SHAPES = {  # batch, channels, samples, outputs
    "challenge_1": (32, 72, 500, 1),
    "challenge_2": (16, 104, 1000, 8),
    "hbn": (64, 129, 200, 1),
}
MODELS = {"stock": EEGNeX, "fast": FastEEGNeX}

warnings.filterwarnings("ignore")  # other libraries would clutter the output


def make_model_and_data(model, shape, device="cpu"):
    """Build a model, and batches that are never the same twice in a row."""
    batch, n_chans, n_times, n_outputs = shape
    torch.manual_seed(0)
    module = MODELS[model](n_chans=n_chans, n_times=n_times, n_outputs=n_outputs)
    batches = [
        (
            torch.randn(batch, n_chans, n_times, device=device),
            torch.randn(batch, n_outputs, device=device),
        )
        for _ in range(2)
    ]
    return module.to(device), itertools.cycle(batches)


def make_step(run, optimizer, draw, loss):
    """Build a function that makes one training step on what `draw` returns."""

    def step():
        x, y = draw()

        def closure():
            optimizer.zero_grad()
            value = loss(run(x), y)
            value.backward()
            return value

        optimizer.step(closure)

    return step


def interleaved_medians(functions, repeats, device="cpu"):
    """Call each function in turn, and again; median milliseconds of each."""
    milliseconds = {name: [] for name in functions}
    for round_ in range(repeats + 1):
        for name, function in functions.items():
            elapsed = _timed(function, torch.device(device))
            if round_:  # the first is for warming up
                milliseconds[name].append(elapsed)
    return {name: statistics.median(values) for name, values in milliseconds.items()}


def _timed(function, device):
    if device.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        function()
        end.record()
        end.synchronize()
        return start.elapsed_time(end)
    begin = time.perf_counter()
    function()
    return 1e3 * (time.perf_counter() - begin)


def extra_memory(variant, shape, device="cpu", repeats=3):
    """Median MiB that a training step needs; see _cell.py."""
    command = [sys.executable, Path(__file__).with_name("_cell.py"), variant]
    command = [*map(str, [*command, *shape]), "--device", str(device)]
    printed = [subprocess.check_output(command, text=True) for _ in range(repeats)]
    return statistics.median(float(text.splitlines()[-1]) for text in printed)


def cpu_medians(functions, make_input, seconds=0.3):
    """Call each function on new inputs in turn; median milliseconds of CPU time.

    There are at least 3 rounds, and 6 unless they take over 5 s.
    """
    milliseconds = {name: [] for name in functions}
    begin, n_rounds, elapsed = time.perf_counter(), 0, 0.0
    while n_rounds < (3 if elapsed > 5 else 6) or elapsed < seconds:
        for name, function in functions.items():
            x = make_input()
            start = time.process_time_ns()
            function(x)
            milliseconds[name].append((time.process_time_ns() - start) / 1e6)
        n_rounds, elapsed = n_rounds + 1, time.perf_counter() - begin
    # The first round is for warming up.
    return {
        name: statistics.median(values[1:]) for name, values in milliseconds.items()
    }


def print_with_machine(rows, path=None, threads=None):
    """Print rows, and write them with torch's threads and the CPU."""
    machine = {"threads": threads or torch.get_num_threads(), "CPU": cpu()}
    # The row's columns come first. If it has "threads", that value is kept.
    print_table([{**row, **machine, **row} for row in rows], path)


def cpu():
    """Return the model of the CPU and the number of cores."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(": ")[1] for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor()
    return f"{name}, {os.cpu_count()} cores"


def print_table(rows, path=None):
    """Print rows, dicts with the same keys, and write them as CSV."""
    names = list(rows[0])
    text = [[_format(row[name]) for name in names] for row in rows]
    widths = [max(map(len, column)) for column in zip(names, *text, strict=True)]
    for line in [names, *text]:
        print("  ".join(cell.rjust(w) for cell, w in zip(line, widths, strict=True)))
    if path is not None:
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(dict(zip(names, line, strict=True)) for line in text)


def _format(value):
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def add_common_arguments(parser):
    """Add the options of every benchmark."""
    parser.add_argument("--csv", help="also write the table to this file")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=5)
    return parser
