"""A step that is made as a whole or not at all."""

import contextlib
import weakref

import torch

from braindecode_sam.optim._interrupts import Interruptible
from braindecode_sam.optim._norm_stats import HeldBuffers
from braindecode_sam.optim._workspace import KIND


class Transaction:
    """Put an optimizer and its modules back if what happens inside fails.

    That is: weights, the base optimizer's state, what a variant remembers, the groups'
    options, and the buffers of all modules that are called on this thread. Gradients
    and random numbers are left as the failure left them, and so is what a base
    optimizer keeps outside of its ``state`` and ``param_groups``.

    Parameters
    ----------
    optimizer : SAM
        With ``param_groups``, ``state`` and ``memory``.

    Notes
    -----
    A base optimizer that runs out of memory half-way has moved some of its moments and
    none of the weights, say; nothing but a copy brings those back. The copies are kept
    from step to step.
    """

    def __init__(self, optimizer):
        self._optimizer = weakref.ref(optimizer)  # it owns this
        self._kinds, self._copies = [], []
        self._interrupts = Interruptible()

    @contextlib.contextmanager
    def begin(self):
        """Open a context that puts all back if it is left by an exception."""
        with self._interrupts:
            self._save()
            with HeldBuffers(names=None) as buffers:
                try:
                    yield
                except BaseException:
                    self._put_back()
                    raise
                buffers.release()

    def call(self, closure):
        """Call the closure, the only part that may be interrupted."""
        return self._interrupts.call(closure)

    def _save(self):
        tensors, self._containers = [], []
        optimizer = self._optimizer()
        for root in (optimizer.param_groups, optimizer.state, vars(optimizer.memory)):
            _list_parts(root, tensors, self._containers)
        kinds = list(map(KIND, tensors))
        if kinds != self._kinds:
            self._kinds, self._copies = kinds, list(map(torch.empty_like, tensors))
        self._tensors = tensors
        torch._foreach_copy_(self._copies, tensors)

    def _put_back(self):
        with torch.no_grad():
            torch._foreach_copy_(self._tensors, self._copies)
        for container, items in self._containers:
            container.clear()
            if isinstance(container, dict):
                container.update(items)
            else:
                container.extend(items)


def _list_parts(node, tensors, containers):
    """List the tensors in nested containers, and each container with its items."""
    if isinstance(node, torch.Tensor):
        tensors.append(node)
    elif isinstance(node, (dict, list)):
        containers.append((node, node.copy()))
        for item in node.values() if isinstance(node, dict) else node:
            _list_parts(item, tensors, containers)
