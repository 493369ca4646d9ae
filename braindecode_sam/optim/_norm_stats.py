"""Which buffers the second pass of a SAM step must not move, and how they are held.

An optimizer sees tensors, not modules, yet batch normalization keeps its running
statistics in modules. While a :class:`HeldBuffers` is open, a global forward
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

from braindecode_sam.optim._interrupts import Interruptible

# By name, not by type: scripted modules and norms of other libraries keep these
# names but not torch's classes.
STATISTICS = {"running_mean", "running_var", "num_batches_tracked"}
# What spectral_norm's power iteration keeps, as a parametrization and as a hook.
STATISTICS |= {"_u", "_v", "weight_u", "weight_v"}


class HeldBuffers:
    """Hold buffers, by default normalization statistics, while forward passes run.

    Only modules called on the thread that opened it are held, so two nets that
    train in one process do not touch each other's statistics.

    Parameters
    ----------
    names : collection of str or None, default=STATISTICS
        Names of the buffers to hold; None holds all.

    Examples
    --------
    >>> import torch
    >>> norm = torch.nn.BatchNorm1d(2)
    >>> with HeldBuffers():
    ...     _ = norm(torch.randn(8, 2))
    >>> int(norm.num_batches_tracked)
    0
    """

    def __init__(self, names=STATISTICS):
        self._names = names

    def __enter__(self):
        self._thread = threading.get_ident()
        self._seen = set()
        self._held = []
        self._hooks = []
        self._watch()
        return self

    def __exit__(self, *exc_info):
        try:
            for owner, name, buffer, value in self._held:
                with torch.no_grad():
                    buffer.copy_(value)
                owner._buffers[name] = buffer  # a forward may rebind its buffer
        finally:
            self.release()

    def release(self):
        """Hold them no longer, and leave them as they are now."""
        self._remove_hooks()
        self._seen, self._held = set(), []

    def _watch(self):
        # A weak reference: when a two-step user drops the optimizer between its
        # steps, the hook must not keep that user's modules alive for ever.
        reference = weakref.ref(self)

        def watch(module, args):
            held = reference()
            held._hold(module) if held is not None else hook.remove()

        hook = register_module_forward_pre_hook(watch)
        self._hooks.append(hook)

    def _remove_hooks(self):
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    @torch.compiler.disable
    def _hold(self, module):
        if threading.get_ident() == self._thread:
            with Interruptible():
                self._copy_buffers(module)
                # All below it has been seen; without a hook, a compiled forward does
                # not break at every layer. A scripted module takes none of its own.
                if not isinstance(module, torch.jit.ScriptModule):
                    self._remove_hooks()
                    leave = module.register_forward_hook(self._leave, always_call=True)
                    self._hooks.append(leave)

    @torch.compiler.disable
    def _leave(self, module, args, output):
        with Interruptible():
            self._watch()

    def _copy_buffers(self, module):
        for child in module.modules():
            if child not in self._seen:
                self._seen.add(child)
                self._held += [
                    (child, name, buffer, buffer.detach().clone())
                    for name, buffer in child._buffers.items()
                    if buffer is not None and (not self._names or name in self._names)
                ]
