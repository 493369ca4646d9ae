"""Measure the memory of a training step of EEGNeX and FastEEGNeX, AdamW and SAM.

The table shows the MiB that a few steps add at their peak to the model and the data,
and the ratio of EEGNeX with AdamW to each variant. Each variant runs in a separate
process. This needs Linux or a GPU.
"""

import argparse

from _report import SHAPES, extra_memory, print_with_machine
from training_step import BASELINE, add_variant_arguments, chosen_variants


def main():
    """Print a table."""
    args = add_variant_arguments(
        argparse.ArgumentParser(description=__doc__)
    ).parse_args()
    variants = chosen_variants(args)
    rows = []
    for name in args.shapes:
        memory = {
            variant: extra_memory(variant, SHAPES[name], args.device, args.repeats)
            for variant in variants
        }
        rows += [
            {
                "windows": name,
                "training": variant,
                "MiB per step": mib,
                "ratio": memory[BASELINE] / mib,
            }
            for variant, mib in memory.items()
        ]
    print_with_machine(rows, args.csv)


if __name__ == "__main__":
    main()
