"""Threads that leave their core to other programs while they wait."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future

import torch

_SWITCH = "BRAINDECODE_SAM_SHARE_CORES"
_is_in_effect = False  # a forked child inherits the effect, and with it this flag


@contextlib.contextmanager
def torch_threads(n_threads: int) -> Iterator[None]:
    """Set torch's number of threads, and restore it."""
    before = torch.get_num_threads()
    if n_threads == before:  # torch prepares its threads anew if the number is set
        yield
        return
    torch.set_num_threads(n_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def share_cores() -> str:
    """Let torch's threads sleep instead of spin while they wait for each other.

    Training gets up to several times faster if other programs use the same cores, and
    up to a third slower if none does, because a sleeping thread resumes later. This
    holds for every model of torch, not only for those of :func:`speed_up`. The number
    of threads and all results stay the same. :func:`speed_up` and the nets of
    :func:`make_regressor` and :func:`make_classifier` call this function.

    Returns
    -------
    state : str
        "in effect", or "no effect: " and the reason. A later call may succeed if torch
        used one thread, which waits for no other.

    Notes
    -----
    A training step consists of hundreds of parallel regions. At the end of each,
    threads spin for some milliseconds before they sleep. If another program needs the
    core, they keep it from the thread that still has work.

    torch's wheels for Linux use the OpenMP runtime libgomp. Its threads spin 100
    instead of 300,000 times if it manages more threads than there are CPUs [1]_. This
    function starts a second team of one thread more than there are CPUs. It sleeps
    until the process ends.

    - Forked processes inherit the effect.
    - ``BRAINDECODE_SAM_SHARE_CORES=0`` in the environment prevents it. So does
      ``GOMP_SPINCOUNT`` or ``OMP_WAIT_POLICY``, which control the same.
    - The runtimes of LLVM and Intel, which torch uses on macOS and Windows, stay as
      they are. Set ``KMP_BLOCKTIME=0`` before Python starts.

    :ref:`shared-cores` shows what it costs and gains.

    References
    ----------
    .. [1] GNU libgomp manual, ``GOMP_SPINCOUNT``.
       https://gcc.gnu.org/onlinedocs/libgomp/GOMP_005fSPINCOUNT.html

    Examples
    --------
    >>> from braindecode_sam import share_cores
    >>> state = share_cores()
    >>> state.split(":")[0] in ("in effect", "no effect")
    True
    """
    global _is_in_effect
    if _is_in_effect:
        return "in effect"
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        if name in os.environ:
            return f"no effect: {name} is set"
    if os.environ.get(_SWITCH, "1") == "0":
        return f"no effect: {_SWITCH} is 0"
    if torch.get_num_threads() == 1:
        return "no effect: torch uses one thread"
    libgomp = _libgomp()
    if libgomp is None:
        return "no effect: torch's OpenMP runtime is not libgomp"
    _is_in_effect = True  # first, since other threads may call at the same time
    reason: str | None = "it was interrupted"
    try:
        reason = _start_sleeping_team(libgomp)
    finally:
        _is_in_effect = reason is None
    return "in effect" if reason is None else f"no effect: {reason}"


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


def _start_sleeping_team(libgomp: ctypes.CDLL) -> str | None:
    """Start the team and return None, or return why it cannot start."""
    result: Future[str | None] = Future()

    def lead() -> None:
        # libgomp counts the CPUs when it is loaded, and some may have been taken away
        # since. By default, a new thread's team has as many threads as it counted.
        size = 1 + max(libgomp.omp_get_num_procs(), libgomp.omp_get_max_threads())
        # Without room for this team and torch's own, libgomp would end the process.
        if not _has_room_for(2 * size):
            result.set_result(_LIMITED)
            return
        arrived: list[int] = []
        libgomp.GOMP_parallel(_Region(arrived.append), 0, size, 0)
        if len(arrived) < size:
            found = len(arrived)
            result.set_result(f"OpenMP allows {found} threads, {size} are needed")
            return
        result.set_result(None)
        threading.Event().wait()  # libgomp ends the team if its first thread ends

    try:
        threading.Thread(target=lead, name="share_cores", daemon=True).start()
    except RuntimeError:  # can't start new thread
        return _LIMITED
    return result.result()


_LIMITED = "the number of threads is limited"
_Region = ctypes.CFUNCTYPE(None, ctypes.c_size_t)


def _has_room_for(n_threads: int) -> bool:
    """Return whether the process may start so many more threads."""
    is_over = threading.Event()
    started: list[threading.Thread] = []
    try:
        for _ in range(n_threads):
            thread = threading.Thread(target=is_over.wait, daemon=True)
            thread.start()
            started.append(thread)
    except RuntimeError:  # can't start new thread
        return False
    finally:
        is_over.set()
        for thread in started:
            thread.join()
    return True
