"""Devices on simulated builds and machines."""

import pytest
import torch

from braindecode_sam import resolve_device

BUILDS = {
    "cpu": {"hip": None, "cuda": None, "gpus": 0, "mps": False},
    "cuda": {"hip": None, "cuda": "13.0", "gpus": 2, "mps": False},
    "cuda, no GPU": {"hip": None, "cuda": "13.0", "gpus": 0, "mps": False},
    "rocm": {"hip": "6.4", "cuda": None, "gpus": 1, "mps": False},
    "rocm, no GPU": {"hip": "6.4", "cuda": None, "gpus": 0, "mps": False},
    "mac": {"hip": None, "cuda": None, "gpus": 0, "mps": True},
}


@pytest.fixture
def pretend(monkeypatch):
    def pretend(name):
        build = BUILDS[name]
        monkeypatch.setattr(torch.version, "hip", build["hip"])
        monkeypatch.setattr(torch.version, "cuda", build["cuda"])
        monkeypatch.setattr(torch.cuda, "is_available", lambda: build["gpus"] > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: build["gpus"])
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: build["mps"])

    return pretend


def test_resolves(pretend):
    for build, expected in {
        "cpu": {"cpu": "cpu", "auto": "cpu"},
        "cuda": {torch.device("cuda:1"): "cuda:1", "auto": "cuda"},
        "cuda, no GPU": {"auto": "cpu"},
        "rocm": {"rocm": "cuda", "rocm:0": "cuda:0", "cuda": "cuda", "auto": "cuda"},
        "mac": {"mps": "mps", "auto": "mps"},
    }.items():
        pretend(build)
        assert {device: resolve_device(device) for device in expected} == expected


def test_refuses(pretend):
    for build, device, error, message in (
        ("cpu", "rocm", RuntimeError, "'rocm' needs a ROCm build.*this is a CPU build"),
        ("cuda", "rocm:0", RuntimeError, "'rocm:0' needs.*this is a CUDA 13.0 build"),
        ("cuda", "rocm", RuntimeError, "HSA_OVERRIDE_GFX_VERSION.*10.3.0.*gfx1010"),
        ("rocm, no GPU", "rocm", RuntimeError, "none here .a ROCm 6.4 build"),
        ("cpu", "cuda", RuntimeError, "'cuda' needs a GPU.*Use 'cpu', or 'auto'"),
        ("cuda", "cuda:2", ValueError, "'cuda:2' does not exist: PyTorch finds 2 GPU"),
        ("rocm", "rocm:1", ValueError, "index must be between 0 and 0"),
        ("cpu", "mps", RuntimeError, "'mps' needs Apple's MPS"),
        ("rocm", "hip:0", ValueError, "'rocm:N' or 'mps', got 'hip:0'"),
        ("cuda", "gpu", ValueError, "device must be 'auto', 'cpu'.*got 'gpu'"),
        ("cuda", "cuda:", ValueError, "got 'cuda:'"),
        ("cuda", "cpu:1x", ValueError, "got 'cpu:1x'"),
        ("cuda", None, ValueError, "got None"),
    ):
        pretend(build)
        with pytest.raises(error, match=message):
            resolve_device(device)
