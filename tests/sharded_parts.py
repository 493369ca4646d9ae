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
from tests.optim.helpers import FAMILY
from tests.test_distributed import make_batches, make_optimizer, make_small, train

ADAMW = torch.optim.AdamW


def train_shards(optimizer, module, batches):
    weights = train(optimizer, module, batches)
    return {name: weight.full_tensor() for name, weight in weights.items()}


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
        train_shards(optimizer, module, batches),
        train_shards(resumed, other, batches),
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
            weights = train_shards(optimizer, module, halves)
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
