"""Small problems with which the tests compare optimizers."""

import io

import torch
from torch.utils._python_dispatch import TorchDispatchMode

import braindecode_sam.optim

FAMILY = [
    getattr(braindecode_sam.optim, name) for name in braindecode_sam.optim.__all__
]
BASES = {
    "AdamW": (torch.optim.AdamW, {}),
    "Adamax": (torch.optim.Adamax, {}),
    "SGD with momentum": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "RMSprop": (torch.optim.RMSprop, {"centered": True}),
    "Adam with amsgrad": (torch.optim.Adam, {"amsgrad": True}),
}


def small_net(dropout=0.5):
    return torch.nn.Sequential(
        torch.nn.Linear(5, 8),
        torch.nn.BatchNorm1d(8),
        torch.nn.Dropout(dropout),
        torch.nn.Linear(8, 1),
    )


class Problem:
    """A net, some data and the closure that an optimizer calls."""

    def __init__(self, net=None, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.net = small_net() if net is None else net
        self.x = torch.randn(16, 5, generator=generator)
        self.y = torch.randn(16, 1, generator=generator)
        self.calls = 0

    def loss(self):
        return torch.nn.functional.mse_loss(self.net(self.x), self.y)

    def closure(self, optimizer):
        def closure():
            self.calls += 1
            optimizer.zero_grad()
            loss = self.loss()
            loss.backward()
            return loss

        return closure

    def train(self, optimizer, n_steps):
        return [optimizer.step(self.closure(optimizer)).item() for _ in range(n_steps)]

    def train_in_two_steps(self, optimizer, n_steps):
        for _ in range(n_steps):
            self.closure(optimizer)()
            optimizer.first_step(zero_grad=True)
            self.loss().backward()
            optimizer.second_step()

    def snapshot(self):
        return {name: value.clone() for name, value in self.net.state_dict().items()}

    def to(self, device):
        self.net.to(device)
        self.x, self.y = self.x.to(device), self.y.to(device)
        return self


def assert_same(first, second):
    """Compare state dicts bit for bit."""
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def save_and_load(state_dict):
    file = io.BytesIO()
    torch.save(state_dict, file)
    file.seek(0)
    return torch.load(file, weights_only=True)  # as skorch does


class Recording(TorchDispatchMode):
    """Record the names of the operations that torch runs."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(function.name())
        return function(*args, **(kwargs or {}))

    @property
    def n_read(self):
        """Number of values that the host has read, each of which waits for a GPU."""
        return sum(
            name.startswith(("aten::_local_scalar_dense", "aten::nonzero"))
            for name in self.names
        )
