"""Memory that the next pass needs again."""

import functools
import os

import torch

# glibc returns larger blocks to the system in any case.
LIMIT = 32 * 2**20


@functools.cache
def keep_freed_memory() -> None:
    """Have glibc keep freed blocks of up to 32 MiB; once a process.

    By default it returns blocks of 128 KiB and more to the system, which then clears
    every page of them again. The limit follows the largest block that was freed.
    ``BRAINDECODE_SAM_KEEP_MEMORY=0`` in the environment leaves it alone.
    """
    if os.environ.get("BRAINDECODE_SAM_KEEP_MEMORY", "1") != "0":
        torch.empty(LIMIT - 2**16, dtype=torch.uint8)  # not touched, freed at once
