"""Tests for GPUs, run on a CPU where possible."""

import sys

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from braindecode_sam.models import FAST
from braindecode_sam.models._stem.pending import watch
from braindecode_sam.optim import AESAM
from tests.optim.helpers import BASES, FAMILY, Problem, assert_same, pretend_accelerator
from tests.test_sam_in_nets import make_net

NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
DEVICES = ["cpu", pytest.param("cuda", marks=NEEDS_GPU)]


@pytest.fixture
def _deterministic(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("_deterministic")
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("module", ["EEGNeX", "FastEEGNeX", "FastEEGNet"])
@pytest.mark.parametrize("base_name", ["AdamW", "SGD with momentum"])
def test_4_rho_0_and_the_base_alone_are_bit_identical(device, module, base_name):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(20, 4, 500)).astype(np.float32)
    y = rng.normal(size=20).astype(np.float32)
    base, options = BASES[base_name]
    options = {f"optimizer__{name}": value for name, value in options.items()}
    states = []
    for own in (
        {"optimizer": base},
        {"optimizer__base_optimizer": base, "optimizer__rho": 0.0},
    ):
        torch.manual_seed(7)
        net = make_net(module, device=device, **own, **options)
        net.fit(X, y)
        states.append(
            {**net.module_.state_dict(), "random": torch.rand(3, device=device)}
        )
    assert_same(*states)


class Waiting(TorchDispatchMode):
    """Raise if a value is read, which would synchronize with the device."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.name().startswith(("aten::_local_scalar_dense", "aten::nonzero")):
            raise RuntimeError(f"{function} waits for the device")
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("cls", [cls for cls in FAMILY if cls is not AESAM])
@pytest.mark.parametrize("adaptive", [False, True])
def test_a_step_as_on_an_accelerator_reads_no_value(cls, adaptive, monkeypatch):
    problem = Problem()
    optimizer = cls(
        problem.net.parameters(), torch.optim.SGD, lr=0.1, momentum=0.9,
        adaptive=adaptive,
    )  # fmt: skip
    pretend_accelerator(monkeypatch)
    closure = problem.closure(optimizer)
    for _ in range(6):  # LookSAM's steps differ
        with Waiting():
            optimizer.step(closure)


def test_ae_sam_is_known_to_wait():
    problem = Problem()
    optimizer = AESAM(problem.net.parameters(), torch.optim.SGD, lr=0.1)
    with Waiting(), pytest.raises(RuntimeError, match="waits for the device"):
        optimizer.step(problem.closure(optimizer))


@NEEDS_GPU
@pytest.mark.parametrize("cls", [cls for cls in FAMILY if cls is not AESAM])
def test_a_step_makes_no_host_wait(cls):
    problem = Problem()
    problem.net.cuda()
    problem.x, problem.y = problem.x.cuda(), problem.y.cuda()
    optimizer = cls(problem.net.parameters(), rho=0.1)
    problem.train(optimizer, 2)
    closure = problem.closure(optimizer)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(6):
            optimizer.step(closure)
    finally:
        torch.cuda.set_sync_debug_mode("default")


# Fake tensors have a device but no values, so reading one raises.


@pytest.mark.skipif(
    torch.__version__ < "2.12" and not torch.cuda.is_available(),
    reason="older versions ask the driver even for fake tensors",
)
@pytest.mark.filterwarnings("ignore")  # of what these models think of small windows
@pytest.mark.parametrize("cls", FAST)
def test_the_fast_front_stays_on_its_device_and_reads_no_value(cls, monkeypatch):
    # The module, not the function of the same name.
    speed_up = sys.modules["braindecode_sam.models.speed_up"]
    monkeypatch.setattr(speed_up, "_TENSORS", (*speed_up._TENSORS, FakeTensor))
    module = cls(n_chans=22, n_times=1000, n_outputs=4, sfreq=250.0)
    with FakeTensorMode(allow_non_fake_inputs=True), watch() as outcomes:
        out = module.to("cuda")(torch.randn(16, 22, 1000, device="cuda"))
    assert out.device.type == "cuda"
    assert None not in [pattern for _, pattern, _ in outcomes]
    assert outcomes
