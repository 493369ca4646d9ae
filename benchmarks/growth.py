"""Measure how time and memory of a training step grow with the shape of the windows.

Compares EEGNeX with AdamW and FastEEGNeX with SAM. The shape is that of Challenge 1,
with another batch size, number of channels or number of samples. Times are medians of
interleaved runs in one process. Memory is measured as in benchmarks/memory.py.
"""

import argparse

from _report import (
    SHAPES,
    add_common_arguments,
    extra_memory,
    interleaved_medians,
    print_table,
)
from training_step import BASELINE, make_step

AXES = ("batch", "n_chans", "n_times", "n_outputs")
VALUES = {
    "batch": (1, 4, 16, 64, 256),
    "n_chans": (8, 32, 128, 256),
    "n_times": (100, 250, 1000, 2000, 4000),
}
COMPARED = (BASELINE, "FastEEGNeX, SAM")


def measure(shape, args):
    """Return one row of the table."""
    sizes = tuple(shape[name] for name in AXES)
    steps = {variant: make_step(variant, sizes, args.device) for variant in COMPARED}
    times = interleaved_medians(steps, args.repeats, args.device)
    del steps
    memory = {v: extra_memory(v, sizes, args.device, 1) for v in COMPARED}
    row = {name: shape[name] for name in VALUES}
    for name, found in (("ms", times), ("MiB", memory)):
        row |= {f"{variant}, {name}": found[variant] for variant in COMPARED}
        row |= {f"ratio of {name}": found[COMPARED[0]] / found[COMPARED[1]]}
    return row


def main():
    """Print a table."""
    parser = add_common_arguments(argparse.ArgumentParser(description=__doc__))
    parser.add_argument("--of", nargs="+", default=list(VALUES), choices=VALUES)
    args = parser.parse_args()
    rows = []
    for what in args.of:
        for value in VALUES[what]:
            shape = dict(zip(AXES, SHAPES["challenge_1"], strict=True)) | {what: value}
            rows.append(measure(shape, args))
            print(f"{what} = {value}: done", flush=True)
    print_table(rows, args.csv)


if __name__ == "__main__":
    main()
