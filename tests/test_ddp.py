"""SAM under DistributedDataParallel, two processes on one machine."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.ddp_parts import make_batches, make_module, train
from tests.optim.helpers import FAMILY

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """Weights that each rank has at the end, by the optimizer's name."""
    file = tmp_path_factory.mktemp("ddp") / "meeting"
    command = [sys.executable, "-m", "tests.ddp_parts"]
    processes = [
        subprocess.Popen([*command, str(rank), file], cwd=ROOT) for rank in range(2)
    ]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    return [torch.load(f"{file}.{rank}") for rank in range(2)]


@pytest.mark.parametrize("cls", FAMILY)
def test_ranks_stay_identical_and_equal_one_process(cls, ranks):
    first, second = (rank[cls.__name__] for rank in ranks)
    alone = train(cls, make_module(), make_batches())
    for name, weight in alone.items():
        assert torch.equal(first[f"module.{name}"], second[f"module.{name}"])
        torch.testing.assert_close(first[f"module.{name}"], weight, rtol=0, atol=1e-10)
