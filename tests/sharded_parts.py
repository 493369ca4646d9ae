"""Process of a distributed training: python -m tests.sharded_parts."""

import copy
import sys

import torch
from torch.distributed import destroy_process_group, init_process_group
from torch.distributed.checkpoint.state_dict import (
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel

from braindecode_sam.optim import SAM, MomentumSAM
from tests.optim.helpers import FAMILY, small_net

N_STEPS = 6
ADAMW = torch.optim.AdamW


def make_small():
    torch.manual_seed(0)
    return small_net(dropout=0.0).double()


def make_batches():
    generator = torch.Generator().manual_seed(1)
    options = {"generator": generator, "dtype": torch.float64}
    return [
        (torch.randn(8, 5, **options), torch.randn(8, 1, **options))
        for _ in range(N_STEPS)
    ]


def make_optimizer(cls, module, *base, **options):
    return cls(module.parameters(), *(base or (ADAMW,)), lr=0.01, rho=0.1, **options)


def train(optimizer, module, batches):
    """Make a step with each batch, BatchNorm in eval; return the weights."""
    module.eval()
    for x, y in batches:

        def closure(x=x, y=y):
            optimizer.zero_grad()
            loss = torch.nn.functional.mse_loss(module(x), y)
            loss.backward()
            return loss

        optimizer.step(closure)
    return {name: whole(p) for name, p in module.named_parameters()}


def whole(param):
    param = param.detach()
    return param.full_tensor() if hasattr(param, "full_tensor") else param


def shard(module):
    mesh = init_device_mesh("cpu", (2,))
    fully_shard(module[0], mesh=mesh)
    fully_shard(module, mesh=mesh)
    return module


def resume(cls, module, optimizer, batches):
    """Continue from torch.distributed's state dict, and without it."""
    saved = copy.deepcopy(get_optimizer_state_dict(module, optimizer))
    other = shard(make_small())
    other.load_state_dict(module.state_dict())
    resumed = make_optimizer(cls, other)
    set_optimizer_state_dict(other, resumed, saved)
    return [
        train(optimizer, module, batches),
        train(resumed, other, batches),
        {"n_steps": torch.tensor([optimizer.n_steps, resumed.n_steps])},
    ]


def refused(function, *args, **options):
    try:
        function(*args, **options)
    except ValueError as error:
        return str(error)
    return "it was accepted"


def main(rank, file):
    init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    halves = [(x[rank::2], y[rank::2]) for x, y in make_batches()]
    found = {}
    for cls in FAMILY:
        name = cls.__name__
        if cls is not MomentumSAM:
            module = DistributedDataParallel(make_small())
            optimizer = make_optimizer(
                cls, module, ZeroRedundancyOptimizer, optimizer_class=ADAMW
            )
            found[f"ZeRO {name}"] = train(optimizer, module, halves)
        for adaptive in (False, True):
            module = shard(make_small())
            optimizer = make_optimizer(cls, module, adaptive=adaptive)
            weights = train(optimizer, module, halves)
            found[f"FSDP2 {name} {adaptive}"] = weights
        found[f"resumed {name}"] = resume(cls, module, optimizer, halves)
    module = DistributedDataParallel(make_small())
    found["refused"] = [
        refused(ZeroRedundancyOptimizer, module.parameters(), SAM, lr=0.1),
        refused(
            make_optimizer, MomentumSAM, module, ZeroRedundancyOptimizer,
            optimizer_class=ADAMW,
        ),
        refused(
            make_optimizer, SAM, module, ZeroRedundancyOptimizer,
            optimizer_class=ADAMW, overlap_with_ddp=True,
        ),
        refused(
            make_optimizer, SAM,
            FullyShardedDataParallel(make_small(), device_id=torch.device("cpu")),
        ),
        refused(
            make_optimizer, SAM,
            FullyShardedDataParallel(
                make_small(), device_id=torch.device("cpu"), use_orig_params=True
            ),
        ),
    ]  # fmt: skip
    torch.save(found, f"{file}.{rank}")
    destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
