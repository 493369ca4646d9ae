"""Threads that leave their core to other programs while they wait."""

from __future__ import annotations

import ctypes
import os
import sys
import threading

import torch

_SWITCH = "BRAINDECODE_SAM_SHARE_CORES"
_is_in_effect = False  # a forked child inherits the effect, and with it this flag


def share_cores() -> str:
    """Let torch's threads sleep sooner while they wait for each other.

    :func:`speed_up` and the nets of :func:`make_regressor` and :func:`make_classifier`
    call it. It helps every model of torch that trains beside other programs. A machine
    without other programs loses some time, since a thread that sleeps wakes up later.
    The number of threads and all results stay the same.

    Returns
    -------
    state : str
        "in effect", or "no effect: " and the reason. A later call may succeed if torch
        used one thread, which waits for no other.

    Notes
    -----
    A step consists of hundreds of parallel regions, and each ends when the last thread
    is done. The others look for the next region 300,000 times before they sleep, which
    takes some milliseconds. If another program needs the core, they keep it from the
    thread that still has work.

    torch's wheels for Linux use the OpenMP runtime libgomp. It makes a thread look only
    100 times if it manages more threads than there are CPUs [1]_. This function starts
    one more team of threads, which sleeps until the process ends.

    - The effect lasts until the process ends. Forked processes inherit it.
    - ``BRAINDECODE_SAM_SHARE_CORES=0`` in the environment prevents it. So does
      ``GOMP_SPINCOUNT`` or ``OMP_WAIT_POLICY``, which set the same.
    - It has no effect on macOS and Windows, or where another OpenMP runtime is loaded.
      For those of LLVM and Intel, set ``KMP_BLOCKTIME=0`` before Python starts.

    :ref:`shared-cores` shows what it costs and gains.

    References
    ----------
    .. [1] GNU libgomp manual, ``GOMP_SPINCOUNT``.
       https://gcc.gnu.org/onlinedocs/libgomp/GOMP_005fSPINCOUNT.html

    Examples
    --------
    >>> import torch
    >>> from braindecode_sam import share_cores
    >>> torch.set_num_threads(1)
    >>> share_cores()
    'no effect: torch uses one thread'
    """
    global _is_in_effect
    reason = None if _is_in_effect else _reason_against()
    if reason is not None:
        return f"no effect: {reason}"
    _is_in_effect = True
    return "in effect"


def _reason_against() -> str | None:
    """Start the team; return why that is impossible or not wanted."""
    if os.environ.get(_SWITCH, "1") == "0":
        return f"{_SWITCH} is 0"
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        if name in os.environ:
            return f"{name} is set"
    if torch.get_num_threads() == 1:
        return "torch uses one thread"
    libgomp = _libgomp()
    if libgomp is None:
        return "torch's OpenMP runtime is not libgomp"
    arrived: list[int] = []
    is_done = threading.Event()

    def sleep_with_a_team() -> None:
        # libgomp counts the CPUs when it is loaded, and some may have been taken away
        # since. By default, a new thread's team has as many threads as it counted.
        size = 1 + max(libgomp.omp_get_num_procs(), libgomp.omp_get_max_threads())
        region = _Region(arrived.append)
        libgomp.GOMP_parallel(region, size, size, 0)
        is_done.set()
        if len(arrived) == size:
            threading.Event().wait()  # libgomp ends the team if its first thread ends

    threading.Thread(target=sleep_with_a_team, name=_SWITCH, daemon=True).start()
    is_done.wait()
    if len(arrived) < arrived[0]:
        return f"OpenMP allows {len(arrived)} threads, {arrived[0]} are needed"
    return None


_Region = ctypes.CFUNCTYPE(None, ctypes.c_size_t)


def _libgomp() -> ctypes.CDLL | None:
    """Return the runtime that torch uses if it is libgomp."""
    if sys.platform != "linux":
        return None
    # In the linker's order: libraries loaded for all, then those that torch loaded.
    for path in (None, torch._C.__file__):
        library = ctypes.CDLL(path)
        if hasattr(library, "GOMP_parallel"):
            # LLVM's and Intel's runtimes have the functions of libgomp, too.
            return None if hasattr(library, "kmp_set_blocktime") else library
    return None
