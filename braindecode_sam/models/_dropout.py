"""Dropout that reuses its mask in a second pass with the same random numbers.

Drawing random numbers takes a large part of a small model's forward pass. Both passes
of a SAM step begin from the same state of the generator, so the second pass would draw
the numbers of the first again.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention

FEW = 2048  # elements that are drawn again in the time that remembering takes


class _Drawn(NamedTuple):
    before: torch.Tensor  # state of the generator before drawing
    after: torch.Tensor
    p: float
    mask: torch.Tensor


class DropoutReplay(torch.nn.Dropout):
    """Dropout with the masks and the random number stream of torch's.

    :func:`~braindecode_sam.speed_up` assigns this class to layers of class
    :class:`torch.nn.Dropout`. It stores its last mask and reuses it if the generator is
    again in the state in which the mask was drawn. The generator then advances as if
    the numbers had been drawn. On accelerators, for few elements, and where tensors
    cannot be stored (``torch.compile``, ``torch.func``, inference mode), it is plain
    dropout.

    Examples
    --------
    >>> import torch
    >>> from braindecode_sam.models._dropout import DropoutReplay
    >>> layer, x = DropoutReplay(), torch.ones(4, 100)
    >>> state = torch.get_rng_state()
    >>> first = layer(x)
    >>> _ = torch.set_rng_state(state)
    >>> torch.equal(layer(x), first)
    True
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply dropout.

        Parameters
        ----------
        x : torch.Tensor
            Tensor of any shape.

        Returns
        -------
        y : torch.Tensor
            Tensor of the same shape.
        """
        if torch.jit.is_scripting():
            return F.dropout(x, self.p, self.training, self.inplace)
        else:  # not scripted
            return self._drop(x)

    def _drop(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or self.inplace or x.numel() < FEW or not _may_keep(x):
            return torch.nn.Dropout.forward(self, x)
        return x * self._mask(x)

    def _mask(self, x: torch.Tensor) -> torch.Tensor:
        before = torch.get_rng_state()
        drawn = self.__dict__.get("_drawn")
        if drawn is None or not _is_same(drawn, before, self.p, x):
            mask = torch.nn.functional.dropout(torch.ones_like(x), self.p)
            drawn = _Drawn(before, torch.get_rng_state(), self.p, mask)
            self.__dict__["_drawn"] = drawn
        else:
            torch.set_rng_state(drawn.after)
        return drawn.mask

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_drawn"}


def _is_same(drawn: _Drawn, before: torch.Tensor, p: float, x: torch.Tensor) -> bool:
    def layout(tensor: torch.Tensor) -> tuple[Any, ...]:
        return tensor.shape, tensor.dtype, tensor.stride()

    return (
        drawn.p == p
        and layout(drawn.mask) == layout(x)
        and torch.equal(drawn.before, before)
    )


def _may_keep(x: torch.Tensor) -> bool:
    return (
        type(x) in (torch.Tensor, torch.nn.Parameter)
        and x.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and not torch.is_inference_mode_enabled()
        and torch._C._functorch.peek_interpreter_stack() is None
        and torch._C._len_torch_dispatch_stack() == 0  # a mode may make fake tensors
    )
