"""Time a training step of EEGNeX and FastEEGNeX with AdamW and with SAM.

A step is forward, backward and the optimizer. With SAM it makes both passes. The table
shows medians of interleaved runs in one process and the speed-up over EEGNeX with
AdamW, and over its compiled version.
"""

import argparse

import _report
import torch
from _report import (
    SHAPES,
    add_common_arguments,
    interleaved_medians,
    make_model_and_data,
    print_with_machine,
)

from braindecode_sam import SAM

BASELINE, COMPILED = "EEGNeX, AdamW", "compiled EEGNeX, AdamW"
VARIANTS = {  # model, optimizer, whether it is compiled
    BASELINE: ("stock", torch.optim.AdamW, False),
    COMPILED: ("stock", torch.optim.AdamW, True),
    "EEGNeX, SAM": ("stock", SAM, False),
    "FastEEGNeX, AdamW": ("fast", torch.optim.AdamW, False),
    "FastEEGNeX, SAM": ("fast", SAM, False),
}


def make_step(variant, shape, device):
    """Build a function that makes one training step."""
    model, optimizer_class, compiled = VARIANTS[variant]
    module, batches = make_model_and_data(model, shape, device)
    optimizer = optimizer_class(module.parameters(), lr=1e-3)
    run = torch.compile(module) if compiled else module
    return _report.make_step(
        run, optimizer, lambda: next(batches), torch.nn.functional.mse_loss
    )


def add_variant_arguments(parser):
    """Add options for the shapes and variants."""
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=SHAPES)
    parser.add_argument(
        "--no-compile", action="store_true", help="leave out the compiled model"
    )
    return add_common_arguments(parser)


def chosen_variants(args):
    """Return the names of the chosen variants."""
    return [v for v in VARIANTS if not (args.no_compile and VARIANTS[v][2])]


def main():
    """Print a table."""
    parser = add_variant_arguments(argparse.ArgumentParser(description=__doc__))
    parser.add_argument(
        "--threads", nargs="+", type=int, help="default: all cores, and 1"
    )
    args = parser.parse_args()
    variants = chosen_variants(args)
    rows = []
    for threads in args.threads or sorted({torch.get_num_threads(), 1}, reverse=True):
        torch.set_num_threads(threads)
        for name in args.shapes:
            torch.compiler.reset()
            steps = {v: make_step(v, SHAPES[name], args.device) for v in variants}
            times = interleaved_medians(steps, args.repeats, args.device)
            for variant, ms in times.items():
                row = {
                    "windows": name,
                    "threads": threads,
                    "training": variant,
                    "ms per step": ms,
                    "speed-up": times[BASELINE] / ms,
                }
                if COMPILED in times:
                    row["speed-up over compiled"] = times[COMPILED] / ms
                rows.append(row)
            print(f"{name}, {threads} threads: done", flush=True)
    print_with_machine(rows, args.csv)


if __name__ == "__main__":
    main()
