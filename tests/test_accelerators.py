"""Tests for GPUs, run on a CPU where possible."""

import functools

import pytest
import torch

from braindecode_sam.optim import AESAM
from tests.models.helpers import Computed, make_front, pair, windows
from tests.optim.helpers import FAMILY, Problem, Recording, assert_same
from tests.test_sam_in_nets import alone_and_with_sam

NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
SGD = torch.optim.SGD
WITHOUT_WAITING = [cls for cls in FAMILY if cls is not AESAM]


def make(cls, problem, **options):
    params = problem.net.named_parameters()
    return cls(params, SGD, lr=0.1, momentum=0.9, rho=0.1, **options)


@pytest.mark.parametrize("cls", WITHOUT_WAITING)
def test_a_step_reads_no_value(cls):
    problem = Problem().to("meta")  # there are no values
    for adaptive in (False, True):
        optimizer = make(cls, problem, adaptive=adaptive)
        for _ in range(6):  # LookSAM's steps differ
            optimizer.step(problem.closure(optimizer))
        assert optimizer.n_steps == 6


def test_ae_sam_is_known_to_wait():
    problem = Problem()
    optimizer = make(AESAM, problem)
    with Recording() as recorded:
        optimizer.step(problem.closure(optimizer))
    assert recorded.n_read > 0


# Lengths of their own, since what depends on sizes only is kept from other tests.
@pytest.mark.parametrize(
    ("options", "n_times"),
    [
        ({}, 131),
        ({"second": 5}, 132),
        ({"is_full": True}, 133),
        ({"n_branches": 2}, 134),
    ],
    ids=str,
)
def test_the_fast_front_stays_on_its_device_and_reads_no_value(
    options, n_times, monkeypatch
):
    _, fast = pair(make_front(20, n_taps=25, **options))
    x = windows(4, 20, n_times)
    for name in ("arange", "empty", "eye", "full", "linspace", "ones", "zeros"):
        # A tensor that is made without naming a device is on another one. (The mode
        # torch.device("meta") would not reach into functions of waiting values.)
        make = functools.partial(getattr(torch, name), device="meta")
        monkeypatch.setattr(torch, name, make)
    with Computed() as computed:
        fast(x).sum().backward()
    assert computed.n_read == 0
    assert not computed.maps  # it was the fast front


@NEEDS_GPU
@pytest.mark.parametrize("module", ["EEGNeX", "FastEEGNeX", "FastEEGNet"])
def test_4_on_a_gpu_as_on_a_cpu(module, monkeypatch):
    """With rho=0 and with fixed weights, training is the base's, bit for bit."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    fixed = {"lr": 0.0, "optimizer__weight_decay": 0.0}
    torch.use_deterministic_algorithms(True)
    try:
        assert_same(*alone_and_with_sam(module, "AdamW", 0.0, device="cuda"))
        assert_same(*alone_and_with_sam(module, "AdamW", 0.5, device="cuda", **fixed))
    finally:
        torch.use_deterministic_algorithms(False)


@NEEDS_GPU
def test_a_step_makes_no_host_wait():
    for cls in WITHOUT_WAITING:
        problem = Problem().to("cuda")
        optimizer = make(cls, problem)
        problem.train(optimizer, 2)
        closure = problem.closure(optimizer)
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(6):
                optimizer.step(closure)
        finally:
            torch.cuda.set_sync_debug_mode("default")
