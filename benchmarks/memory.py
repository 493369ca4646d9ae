"""Extra memory of a training step of EEGNeX: stock and fast, AdamW and SAM.

What some steps add, at their peak, to model and data, in MiB; each in a process of its
own (Linux or a GPU). "stock AdamW / this" is the ratio.
"""

import argparse

from _report import SHAPES, extra_memory, print_table
from training_step import add_variant_arguments, chosen_variants


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
                "shape": name,
                "variant": variant,
                "MiB": mib,
                "stock AdamW / this": memory["stock AdamW"] / mib,
            }
            for variant, mib in memory.items()
        ]
    print_table(rows, args.csv)


if __name__ == "__main__":
    main()
