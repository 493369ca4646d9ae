"""Small models, and what a model computes, compared with the stock layers."""

import copy

import torch
from braindecode.models.util import models_dict, models_mandatory_parameters
from torch import nn

from braindecode_sam import speed_up
from tests.optim.helpers import Recording

# Models that begin with a linear front.
FRONTS = ["ATCNet", "AttentionBaseNet", "CTNet", "EEGConformer", "EEGITNet", "EEGNeX"]
FRONTS += ["EEGNet", "MSVTNet", "TCFormer"]


class Applied(nn.Module):
    """A function, or one that is given layers too."""

    def __init__(self, function, *layers):
        super().__init__()
        self.function, self.layers = function, nn.ModuleList(layers)

    def forward(self, x):
        return self.function(*self.layers, x)


def transposed(x):
    """(batch, n_chans, n_times) to (batch, 1, n_times, n_chans)."""
    return x.mT[:, None]


def joined(*branches_and_x):
    """Branches one after the other, as in TCFormer."""
    *branches, x = branches_and_x
    return torch.cat([branch(x) for branch in branches], dim=1)


class Doubled(torch.autograd.Function):
    """Bypasses torch functions."""

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, grad):
        return 2 * grad


class Computed(Recording):
    """Record also the shapes of convolutions."""

    def __init__(self):
        super().__init__()
        self.convolutions = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if any(cls not in (torch.Tensor, nn.Parameter) for cls in types):
            return NotImplemented  # a value that waits; it then comes back as a tensor
        out = super().__torch_dispatch__(func, types, args, kwargs)
        if func.overloadpacket is torch.ops.aten.convolution:
            self.convolutions.append((args[0].shape, out.shape))
        return out

    @property
    def maps(self):
        """Shapes of the maps that filters over time make of windows.

        Stock layers compute (batch, filters, channels, times) tensors, fast ones never
        do.
        """
        return [out for x, out in self.convolutions if len(x) == 4 and x[1] == 1]


def computed(function, *args):
    """What torch runs in a call."""
    with Computed() as operations:
        function(*args)
    return operations


def maps(model, *args):
    """Shapes of the maps that a forward pass makes of windows."""
    return computed(model, *args).maps


def make_front(
    n_chans=3, n_filters=4, n_taps=9, padding="same", bias=True, norm=True, depth=2,
    second=None, is_full=False, time_first=False, n_branches=1, **norm_options,
):  # fmt: skip
    """Front of a model: filters over time, optionally twice, then over channels."""
    torch.manual_seed(0)

    def size(n_taps, n_chans=1):
        return (n_taps, n_chans) if time_first else (n_chans, n_taps)

    def temporal(n_in, n_out, n_taps):
        pads = padding if isinstance(padding, str) else size(padding, 0)
        layers = [nn.Conv2d(n_in, n_out, size(n_taps), padding=pads, bias=bias)]
        return [*layers, nn.BatchNorm2d(n_out, **norm_options)] if norm else layers

    branches = []
    for _ in range(n_branches):
        branch = temporal(1, n_filters, n_taps)
        if second is not None:
            branch += temporal(n_filters, n_filters + 1, second)
        branches.append(nn.Sequential(*branch))
    n_inner = n_branches * (n_filters + (second is not None))
    spatial = nn.Conv2d(
        n_inner, depth if is_full else depth * n_inner, size(1, n_chans),
        groups=1 if is_full else n_inner, bias=bias,
    )  # fmt: skip
    front = branches[0] if n_branches == 1 else Applied(joined, *branches)
    first = Applied(transposed) if time_first else nn.Unflatten(1, (1, n_chans))
    return randomized(nn.Sequential(first, front, spatial, nn.ELU()))


def make_model(name, **options):
    """A model with its required parameters, else 6 channels and 2 s, and its input."""
    signal = {"n_chans": 6, "n_outputs": 2, "n_times": 400, "sfreq": 200.0}
    listed = {entry[0]: entry[2] or {} for entry in models_mandatory_parameters}
    if name == "SleepStagerChambon2018":  # pools long windows
        signal["n_times"] = 3000
    signal |= listed.get(name, {})
    torch.manual_seed(0)
    model = models_dict[name](**(signal | options))
    return randomized(model), (2, *model.input_shape[1:])


def randomized(model, seed=0):
    """A model in float64 that normalizes by random values and drops nothing."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor in (module.weight, module.running_var):
                    if tensor is not None:
                        tensor.uniform_(0.5, 2)
                for tensor in (module.bias, module.running_mean):
                    if tensor is not None:
                        tensor.uniform_(-1, 1)
            if isinstance(module, (nn.Dropout, nn.Dropout2d)):
                module.p = 0.0
    return model.double()


KINDS = ["noise", "offset", "common offset", "constant channel", "zero channel"]


def windows(batch, n_chans, n_times, seed=0, kind="noise"):
    """Windows that are hard to normalize without losing digits."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, n_chans, n_times, generator=generator, dtype=torch.float64)
    if kind == "offset":
        x += 1e4 * torch.randn(1, n_chans, 1, generator=generator, dtype=torch.float64)
    if kind == "common offset":
        x += 1e4
    if kind.endswith("channel"):
        x[:, 0] = 3.0 if kind == "constant channel" else 0.0
    return x


def pair(model):
    """A model, and a copy in which all filters over time are deferred."""
    fast = copy.deepcopy(model)
    assert set(speed_up(fast)["pattern"]) == {"not tried"}
    return model, fast


def kinds(model):
    """What could be seen of layers that have changed."""
    # torch makes a class for each layer with a parametrization.
    return [
        (type(m).__name__, type(m).__bases__, m.training, set(vars(m)))
        for m in model.modules()
    ]


def fronts(found):
    """The rows of a table of speed_up that tell of deferred layers."""
    return found[found["pattern"].isin(["depthwise", "merged kernel"])]


def run(model, x):
    """Outputs, gradients, and buffers after the step."""
    model.zero_grad()
    torch.manual_seed(1)
    out = model(x)
    out = out[0] if isinstance(out, tuple) else out
    weights = torch.linspace(0, 9, out.numel(), dtype=out.dtype).sin().view_as(out)
    (out * weights).mean().backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return out.detach(), gradients, dict(model.named_buffers())


def differences(expected, found, floor=1e-12):
    """Relative differences of outputs, gradients and buffers, by name.

    Some true gradients are zero because a later batch normalization removes the
    parameter, such as the shift of the one before. Differences are therefore relative
    to the largest value of the gradient, but at least to 1e-4 times the largest of
    all and to `floor`.
    """
    assert expected[1].keys() == found[1].keys()
    largest = max([g.abs().max() for g in expected[1].values()], default=0)
    pairs = {"outputs": (expected[0], found[0], 1e-12)}
    least = 1e-4 * largest + floor
    pairs |= {n: (g, found[1][n], least) for n, g in expected[1].items()}
    pairs |= {n: (b, found[2][n], 1e-12) for n, b in expected[2].items()}
    return {
        name: ((a - b).abs().max() / max(a.abs().max(), least)).item()
        for name, (a, b, least) in (
            (name, (a.double(), b.double(), least))
            for name, (a, b, least) in pairs.items()
        )
        if a.numel()
    }


def assert_equal(expected, found, tolerance=1e-8, floor=1e-12):
    """Compare outputs, gradients and buffers of two models."""
    found = differences(expected, found, floor)
    assert all(value < tolerance for value in found.values()), found
