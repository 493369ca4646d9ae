"""One of several processes that train one net: python -m tests.ddp_parts RANK FILE."""

import sys

import torch
from torch.distributed import destroy_process_group, init_process_group
from torch.nn.parallel import DistributedDataParallel

from braindecode_sam import FastEEGNeX
from tests.optim.helpers import FAMILY

N_STEPS = 3


def make_module():
    torch.manual_seed(0)
    return FastEEGNeX(n_chans=4, n_times=150, n_outputs=1, drop_prob=0.0).double()


def make_batches():
    generator = torch.Generator().manual_seed(1)
    options = {"generator": generator, "dtype": torch.float64}
    return [
        (torch.randn(8, 4, 150, **options), torch.randn(8, 1, **options))
        for _ in range(N_STEPS)
    ]


def train(cls, module, batches):
    """Make a step with each batch, BatchNorm in eval; return the weights."""
    optimizer = cls(module.parameters(), torch.optim.AdamW, lr=0.01, rho=0.1)
    module.eval()
    for x, y in batches:

        def closure(x=x, y=y):
            optimizer.zero_grad()
            loss = torch.nn.functional.mse_loss(module(x), y)
            loss.backward()
            return loss

        optimizer.step(closure)
    return {name: p.detach() for name, p in module.named_parameters()}


def main(rank, file):
    init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    halves = [(x[rank::2], y[rank::2]) for x, y in make_batches()]
    found = {}
    for cls in FAMILY:
        module = DistributedDataParallel(make_module())
        found[cls.__name__] = train(cls, module, halves)
    torch.save(found, f"{file}.{rank}")
    destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
