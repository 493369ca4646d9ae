"""Let Ctrl-C into the closure and nowhere else in a step."""

import signal
import threading


class Interruptible:
    """Hold back SIGINT, but for the calls made through :meth:`call`.

    Python raises KeyboardInterrupt between any two instructions: between the copying
    of two tensors, or in the middle of the code that is to clean up after it. While
    this is open, an interrupt waits for the next :meth:`call` or for the end. Only the
    main thread gets interrupts; on others, and where SIGINT is ignored or not Python's
    to handle, this does nothing.

    Examples
    --------
    >>> import signal
    >>> done = []
    >>> try:
    ...     with Interruptible():
    ...         signal.raise_signal(signal.SIGINT)
    ...         done.append("all of it")
    ... except KeyboardInterrupt:
    ...     done.append("then the interrupt")
    >>> done
    ['all of it', 'then the interrupt']
    """

    def __enter__(self):
        self._previous = self._waiting = None
        self._is_open = False
        if threading.current_thread() is threading.main_thread():
            previous = signal.getsignal(signal.SIGINT)
            if callable(previous):
                self._previous = previous
                signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *exc_info):
        # The closure may have set a handler of its own, to stay.
        if signal.getsignal(signal.SIGINT) == self._handle:
            signal.signal(signal.SIGINT, self._previous)
        self._raise_what_waits()

    def call(self, function):
        """Call a function that may be interrupted.

        Parameters
        ----------
        function : callable
            Takes no arguments.

        Returns
        -------
        result : object
            What it returned.
        """
        self._raise_what_waits()
        self._is_open = True
        try:
            return function()
        finally:
            self._is_open = False

    def _handle(self, signum, frame):
        if not self._is_open:
            self._waiting = signum, frame
            return
        self._is_open = False  # a second one shall not disturb the cleaning up
        self._previous(signum, frame)

    def _raise_what_waits(self):
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            self._previous(*waiting)
