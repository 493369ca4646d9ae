"""Which buffers the second pass of a SAM step must not move, and how they are held.

An optimizer sees tensors, not modules, yet batch normalization keeps its running
statistics in modules. While a :class:`HeldNormStats` is open, a global forward
pre-hook copies the statistics of every module that is called on this thread just
before its first forward; closing it writes the copies back. Setting BatchNorm's
``momentum`` to 0 would not do (``num_batches_tracked`` still counts, and
``momentum=None`` averages by that count), nor would ``eval()`` (it changes the
forward pass itself, and skorch sets training mode again inside the closure).
"""

import threading
import weakref

import torch
from torch.nn.modules.module import register_module_forward_pre_hook

# By name, not by type: scripted modules and norms of other libraries keep these
# names but not torch's classes.
STATISTICS = {"running_mean", "running_var", "num_batches_tracked"}
# What spectral_norm's power iteration keeps, as a parametrization and as a hook.
STATISTICS |= {"_u", "_v", "weight_u", "weight_v"}


class HeldNormStats:
    """Hold normalization statistics as they are while forward passes run.

    Only modules called on the thread that opened it are held, so two nets that
    train in one process do not touch each other's statistics.

    Examples
    --------
    >>> import torch
    >>> norm = torch.nn.BatchNorm1d(2)
    >>> with HeldNormStats():
    ...     _ = norm(torch.randn(8, 2))
    >>> int(norm.num_batches_tracked)
    0
    """

    def __enter__(self):
        self._thread = threading.get_ident()
        self._seen = set()
        self._held = []
        # A weak reference: when a two-step user drops the optimizer between its
        # steps, the hook must not keep that user's modules alive for ever.
        held = weakref.ref(self)
        self._hook = register_module_forward_pre_hook(lambda m, _: held()._hold(m))
        return self

    def __del__(self):
        self._hook.remove()

    def __exit__(self, *exc_info):
        self._hook.remove()
        for owner, name, buffer, value in self._held:
            with torch.no_grad():
                buffer.copy_(value)
            owner._buffers[name] = buffer  # a forward may rebind its buffer
        self._seen, self._held = set(), []

    @torch.compiler.disable
    def _hold(self, module):
        if threading.get_ident() != self._thread or module in self._seen:
            return
        for child in module.modules():
            if child not in self._seen:
                self._seen.add(child)
                self._held += [
                    (child, name, buffer, buffer.detach().clone())
                    for name, buffer in child._buffers.items()
                    if name in STATISTICS and buffer is not None
                ]
