"""ELU and dropout, of which torch computes exponentials and random numbers slowly."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor

from braindecode_sam.models._cost import Values
from braindecode_sam.models._eager import reason_not_eager
from braindecode_sam.models._faster import Described, Faster

_ELU = Values("expm1", "exp")
_MASK, _MASK_AGAIN = Values("bernoulli", "bits"), Values("bernoulli", "value")


@functools.cache
def expm1_is_slow() -> bool:
    """Return whether torch computes ELU with its slow expm1."""
    return torch.backends.cpu.get_cpu_capability() == "AVX512"


class _ELUByExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = x.clamp_max(0).exp_().sub_(1)
        ctx.save_for_backward(x)
        return torch.maximum(x, y, out=y)  # exp(x) - 1 is at least x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        of_x: Tensor = torch.ops.aten.elu_backward(grad, 1.0, 1.0, 1.0, False, x)
        return of_x


class ELUByExp(Faster, torch.nn.ELU):
    """ELU that computes exp(x) - 1, in float32 on a CPU.

    torch computes expm1(x). That is more precise near 0, where both are small, and
    several times slower on processors with AVX512.
    """

    original, pattern = torch.nn.ELU, "exp"

    @classmethod
    def can_replace(cls, layer: Any) -> bool:
        """Return whether this computer gains, and the layer has no options."""
        return expm1_is_slow() and layer.alpha == 1 and not layer.inplace

    def describe(self, shape: Sequence[int]) -> Described:
        """Describe the function and the number of values."""
        return _ELU, tuple(shape)

    def forward(self, input: Tensor) -> Tensor:
        """Apply ELU."""
        if not torch.jit.is_scripting():  # noqa: SIM102 - TorchScript needs two
            if self._applies(input):
                return _ELUByExp.apply(input)
        return F.elu(input, self.alpha, self.inplace)

    def _applies(self, x: Tensor) -> bool:
        return (
            reason_not_eager(x) is None
            and x.dtype == torch.float32
            and x.device.type == "cpu"
            and self.pays(x, self.describe(x.shape))
            and self.can_replace(self)
        )


class _Drawn(NamedTuple):
    before: Tensor  # state of the generator before drawing
    how: tuple[Any, ...]
    is_repeated: bool  # whether the layer was called again in the same state
    after: Tensor | None = None
    mask: Tensor | None = None


class DropoutReplay(Faster, torch.nn.Dropout):
    """Dropout that remembers its mask, or draws it faster.

    Both passes of a SAM step begin from the same state of the generator. Once the layer
    has seen such a repetition, it keeps its masks, and reuses the last one if the
    generator is again in the state in which it was drawn. The generator then advances
    as if the numbers had been drawn.

    Masks and random numbers are those of torch. On request, the masks are others: an
    element is dropped if 16 random bits are below a threshold. Its probability is a
    multiple of 1/65536, and the other elements are divided by their probability. A
    layer that is called several times in a pass draws each mask anew.

    On accelerators, for few elements, and where tensors cannot be stored
    (``torch.compile``, ``torch.func``, inference mode), it is torch's dropout.
    """

    original, pattern = torch.nn.Dropout, "mask"
    drawn = cast(Any, None)

    def describe(self, shape: Sequence[int]) -> Described:
        """Describe the mask."""
        exact = self.settings.has_exact_masks
        return _MASK_AGAIN if exact else _MASK, tuple(shape)

    def forward(self, input: Tensor) -> Tensor:
        """Apply dropout."""
        if not torch.jit.is_scripting():
            if isinstance(input, torch.fx.Proxy):
                # A module of torch's own, whose mode a trace does not fix.
                path = input.tracer.path_of_module(self)
                return input.tracer.create_proxy("call_module", path, (input,), {})
            if self._applies(input):
                return self._drop(input)
        return F.dropout(input, self.p, self.training, self.inplace)

    def _applies(self, x: Tensor) -> bool:
        return (
            self.training
            and not self.inplace
            and 0 < self.p <= 1  # or torch draws nothing, or raises
            and reason_not_eager(x) is None
            and x.device.type == "cpu"
            and not torch.is_inference_mode_enabled()
            and self.pays(x, self.describe(x.shape))
        )

    def _drop(self, x: Tensor) -> Tensor:
        before, drawn = torch.get_rng_state(), self.drawn
        is_exact = self.settings.has_exact_masks
        how = x.shape, x.dtype, x.stride(), self.p, is_exact
        is_again = drawn and drawn.how == how and torch.equal(drawn.before, before)
        if is_again and drawn.mask is not None:
            torch.set_rng_state(drawn.after)
            return x * drawn.mask
        is_repeated = bool(is_again or (drawn and drawn.is_repeated))
        self.drawn = _Drawn(before, how, is_repeated)
        if not is_repeated and is_exact:
            return F.dropout(x, self.p)
        mask = F.dropout(torch.ones_like(x), self.p) if is_exact else draw(x, self.p)
        if is_repeated:
            self.drawn = _Drawn(before, how, True, torch.get_rng_state(), mask)
        return x * mask

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k != "drawn"}


def draw(x: Tensor, p: float) -> Tensor:
    """Draw a mask for x from 16 random bits for each element."""
    n_dropped = round(65536 * p)
    scale = 65536 / (65536 - n_dropped) if n_dropped < 65536 else 0.0
    n_draws = (x.numel() + 3) // 4
    bits = torch.empty(n_draws, dtype=torch.int64, device=x.device)
    bits.random_(-(2**63), None)
    is_kept = bits.view(torch.int16)[: x.numel()] >= n_dropped - 32768
    return is_kept.view(x.shape).to(x.dtype).mul_(scale)
