"""Reuse of freed memory by the next pass."""

import functools
import os

import torch

# glibc returns larger blocks to the system in any case.
LIMIT = 32 * 2**20


@functools.cache
def keep_freed_memory() -> None:
    """Make glibc keep freed blocks of up to 32 MiB for the rest of the process.

    By default glibc returns blocks of 128 KiB and more to the system, which clears
    their pages on the next allocation. The threshold follows the largest block freed so
    far. Set the environment variable ``BRAINDECODE_SAM_KEEP_MEMORY=0`` to keep the
    default.
    """
    if os.environ.get("BRAINDECODE_SAM_KEEP_MEMORY", "1") != "0":
        torch.empty(
            LIMIT - 2**16, dtype=torch.uint8, device="cpu"
        )  # never written, freed at once
