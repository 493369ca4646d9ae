"""SAM on two ranks on one machine, with sharded parameters or states."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from braindecode_sam.optim import MomentumSAM
from tests.optim.helpers import FAMILY, assert_same
from tests.test_distributed import make_batches, make_optimizer, make_small, train

pytestmark = pytest.mark.full

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """Results of each rank."""
    file = tmp_path_factory.mktemp("ranks") / "meeting"
    command = [sys.executable, "-W", "ignore", "-m", "tests.sharded_parts"]
    processes = [
        subprocess.Popen([*command, str(rank), file], cwd=ROOT) for rank in range(2)
    ]
    assert [process.wait(timeout=300) for process in processes] == [0, 0]
    return [torch.load(f"{file}.{rank}") for rank in range(2)]


def assert_is_one_training(cls, ranks, key, **options):
    module = make_small()
    optimizer = make_optimizer(cls, module, **options)
    alone = train(optimizer, module, make_batches())
    first, second = (rank[key] for rank in ranks)
    assert_same(first, second)
    torch.testing.assert_close(first, alone, rtol=0, atol=1e-10)


@pytest.mark.parametrize("cls", [cls for cls in FAMILY if cls is not MomentumSAM])
def test_a_zero_redundancy_base_equals_one_process(cls, ranks):
    assert_is_one_training(cls, ranks, f"ZeRO {cls.__name__}")


@pytest.mark.parametrize("cls", FAMILY)
@pytest.mark.parametrize("adaptive", [False, True])
def test_shards_have_a_joint_norm(cls, adaptive, ranks):
    key = f"FSDP2 {cls.__name__} {adaptive}"
    assert_is_one_training(cls, ranks, key, adaptive=adaptive)


@pytest.mark.parametrize("cls", FAMILY)
def test_torch_distributed_checkpoints_resume_bit_for_bit(cls, ranks):
    for rank in ranks:
        went_on, resumed, steps = rank[f"resumed {cls.__name__}"]
        assert_same(went_on, resumed)
        assert steps["n_steps"].tolist() == [12, 12]


def test_what_cannot_be_right_is_refused_by_name(ranks):
    for rank in ranks:
        inside, momentum, overlap, *flattened = rank["refused"]
        assert inside.startswith("SAM cannot be the optimizer_class of a ZeroRedundan")
        assert "MomentumSAM cannot perturb along momenta" in momentum
        assert "overlap_with_ddp=True" in overlap
        for message in flattened:
            assert message.startswith("SAM cannot perturb the flattened parameters")
