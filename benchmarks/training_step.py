"""Time one training step of EEGNeX: stock and fast, AdamW and SAM, compiled or not.

Forward, backward and the optimizer, with SAM both passes; medians in milliseconds of
interleaved runs in one process, and the ratio of the stock AdamW step (and of the
compiled one) to each.
"""

import argparse

import torch
from _report import (
    SHAPES,
    add_common_arguments,
    interleaved_medians,
    make_model_and_data,
    print_table,
)

from braindecode_sam import SAM

VARIANTS = {  # model, optimizer, compiled
    "stock AdamW": ("stock", torch.optim.AdamW, False),
    "compiled AdamW": ("stock", torch.optim.AdamW, True),
    "stock SAM": ("stock", SAM, False),
    "fast AdamW": ("fast", torch.optim.AdamW, False),
    "fast SAM": ("fast", SAM, False),
}


def make_step(variant, shape, device):
    """Build a function that makes one training step."""
    model, optimizer_class, compiled = VARIANTS[variant]
    module, batches = make_model_and_data(model, shape, device)
    optimizer = optimizer_class(module.parameters(), lr=1e-3)
    run = torch.compile(module) if compiled else module

    def step():
        x, y = next(batches)

        def closure():
            optimizer.zero_grad()
            loss = torch.nn.functional.mse_loss(run(x), y)
            loss.backward()
            return loss

        optimizer.step(closure)

    return step


def add_variant_arguments(parser):
    """Add the choice of shapes and variants."""
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=SHAPES)
    parser.add_argument("--no-compile", action="store_true")
    return add_common_arguments(parser)


def chosen_variants(args):
    """Give the names of the variants that were asked for."""
    return [v for v in VARIANTS if not (args.no_compile and VARIANTS[v][2])]


def main():
    """Print a table."""
    parser = add_variant_arguments(argparse.ArgumentParser(description=__doc__))
    parser.add_argument("--threads", nargs="+", type=int, help="default: all, and one")
    args = parser.parse_args()
    variants = chosen_variants(args)
    rows = []
    for threads in args.threads or sorted({torch.get_num_threads(), 1}, reverse=True):
        torch.set_num_threads(threads)
        for name in args.shapes:
            torch.compiler.reset()
            steps = {v: make_step(v, SHAPES[name], args.device) for v in variants}
            times = interleaved_medians(steps, args.repeats, args.device)
            compiled = times.get("compiled AdamW", float("nan"))
            rows += [
                {
                    "shape": name,
                    "threads": threads,
                    "variant": variant,
                    "ms": ms,
                    "stock AdamW / this": times["stock AdamW"] / ms,
                    "compiled AdamW / this": compiled / ms,
                }
                for variant, ms in times.items()
            ]
            print(f"{name}, {threads} threads: done", flush=True)
    print_table(rows, args.csv)


if __name__ == "__main__":
    main()
