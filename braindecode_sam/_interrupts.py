"""Protection from Ctrl-C. Imports only the standard library."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Self, TypeVar

T = TypeVar("T")


class DeferSigint:
    """Defer SIGINT until the end, except in functions called by :meth:`call`.

    Python raises KeyboardInterrupt between any two instructions, even between the
    copies of two tensors or in the code that cleans up. In other threads than the main
    one, and if SIGINT is ignored or not handled by Python, the context does nothing.
    """

    def __enter__(self) -> Self:
        self._previous: Any = None
        self._waiting: tuple[int, FrameType | None] | None = None
        self._is_interruptible = False
        if threading.current_thread() is threading.main_thread():
            previous = signal.getsignal(signal.SIGINT)
            if callable(previous):
                self._previous = previous
                signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._previous is not None:
            current = signal.signal(signal.SIGINT, self._previous)
            if current != self._handle:  # the closure has set another handler
                signal.signal(signal.SIGINT, current)
        self._raise_deferred()

    def call(self, function: Callable[[], T]) -> T:
        """Call a function that may be interrupted."""
        self._raise_deferred()
        self._is_interruptible = True
        try:
            return function()
        finally:
            self._is_interruptible = False

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if not self._is_interruptible:
            self._waiting = signum, frame
            return
        self._is_interruptible = False  # a second one must not interrupt the cleanup
        self._previous(signum, frame)

    def _raise_deferred(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            self._previous(*waiting)
