"""SAM with replicas of a net in two processes: this one, and one that it starts.

The second one runs this module: python -m tests.test_distributed MEETING RESULTS.
"""

import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import torch
from torch.distributed import destroy_process_group, init_process_group
from torch.nn.parallel import DistributedDataParallel

from tests.optim.helpers import FAMILY, assert_same, small_net

ROOT = Path(__file__).parents[1]


def make_small():
    torch.manual_seed(0)
    return small_net(dropout=0.0).double().eval()


def make_batches():
    generator = torch.Generator().manual_seed(1)
    options = {"generator": generator, "dtype": torch.float64}
    return [
        (torch.randn(8, 5, **options), torch.randn(8, 1, **options)) for _ in range(6)
    ]


def make_optimizer(cls, module, base=torch.optim.AdamW, **options):
    return cls(module.parameters(), base, lr=0.01, rho=0.1, **options)


def train(optimizer, module, batches):
    """Make a step with each batch; return the weights."""
    for x, y in batches:

        def closure(x=x, y=y):
            optimizer.zero_grad()
            loss = torch.nn.functional.mse_loss(module(x), y)
            loss.backward()
            return loss

        optimizer.step(closure)
    return {
        name.removeprefix("module."): p.detach()
        for name, p in module.named_parameters()
    }


def train_replicas(rank, meeting):
    """Train with every second window; return the weights by optimizer."""
    init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=2,
        timeout=timedelta(minutes=5),
    )  # fmt: skip
    try:
        batches = [(x[rank::2], y[rank::2]) for x, y in make_batches()]
        modules = [DistributedDataParallel(make_small()) for _ in FAMILY]
        return [
            train(make_optimizer(cls, module), module, batches)
            for cls, module in zip(FAMILY, modules, strict=True)
        ]
    finally:
        destroy_process_group()


def test_replicas_stay_identical_and_equal_one_process(tmp_path):
    meeting, results = str(tmp_path / "meeting"), str(tmp_path / "results")
    command = [sys.executable, "-W", "ignore", "-m", "tests.test_distributed"]
    process = subprocess.Popen([*command, meeting, results], cwd=ROOT)
    ours = train_replicas(0, meeting)
    assert process.wait(timeout=300) == 0
    for cls, first, second in zip(FAMILY, ours, torch.load(results), strict=True):
        assert_same(first, second)
        module = make_small()
        alone = train(make_optimizer(cls, module), module, make_batches())
        torch.testing.assert_close(first, alone, rtol=0, atol=1e-10)


if __name__ == "__main__":
    torch.save(train_replicas(1, sys.argv[1]), sys.argv[2])
