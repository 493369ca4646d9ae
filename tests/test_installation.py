"""``python -m braindecode_sam`` with compatible and incompatible torchaudio."""

import os
import subprocess
import sys

import pytest
import torch

from braindecode_sam import installation

pytestmark = pytest.mark.slow

# Errors of torchaudio for another version of CUDA and for a missing library.
REFUSALS = {
    "another CUDA": 'RuntimeError("compiled with different CUDA versions")',
    "a CPU build": 'OSError("libc10_cuda.so: cannot open shared object file")',
}


def python(*arguments, path=()):
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, path)),
        "PYTHONWARNINGS": "ignore",
    }
    return subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True
    )


@pytest.fixture(params=REFUSALS.values(), ids=REFUSALS)
def refusing(request, tmp_path):
    (tmp_path / "torchaudio.py").write_text(f"raise {request.param}\n")
    return tmp_path, request.param.split('"')[1]


def test_report_of_what_is_here():
    done = python("-m", "braindecode_sam")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    for name in installation.PACKAGES:
        assert any(line.startswith(f"{name} ") for line in lines)
    assert torch.__version__ in done.stdout
    assert "  auto: " in done.stdout
    assert lines[-1].startswith("torch and torchaudio are compatible")


def test_report_of_parts_that_do_not_fit(refusing):
    folder, reason = refusing
    done = python("-m", "braindecode_sam", path=[folder])
    assert done.returncode == 1
    assert "torch and torchaudio are not compatible" in done.stdout
    assert 'pip install "torch<2.15" braindecode' in done.stdout
    assert reason in done.stdout


def test_a_name_that_cannot_be_imported_says_why(refusing):
    folder, reason = refusing
    done = python("-c", "from braindecode_sam import make_regressor", path=[folder])
    assert done.returncode == 1
    last = done.stderr[done.stderr.rindex("ImportError: ") :]
    assert "torch and torchaudio are not compatible" in last
    assert reason in last


def test_optimizers_work_without_braindecode(refusing):
    code = (
        "import braindecode_sam; from braindecode_sam.optim import SAM;"
        "print(SAM.__name__, hasattr(braindecode_sam, 'no_such_name'))"
    )
    done = python("-c", code, path=[refusing[0]])
    assert done.stdout.split() == ["SAM", "False"], done.stderr


def test_the_fast_models_work_without_the_hub(tmp_path):
    (tmp_path / "huggingface_hub.py").write_text("raise ImportError('not here')\n")
    code = (
        "from braindecode.models.base import HAS_HF_HUB; from braindecode_sam import"
        " FastEEGNet; model = FastEEGNet(n_chans=4, n_times=200, n_outputs=1);"
        "print(HAS_HF_HUB, type(model.conv_temporal).__name__)"
    )
    done = python("-c", code, path=[tmp_path])
    assert done.stdout.split() == ["False", "WaitingConv2d"], done.stderr


def test_another_broken_part_is_not_blamed_on_torchaudio(tmp_path):
    (tmp_path / "skorch.py").write_text('raise ImportError("skorch is broken")\n')
    done = python("-c", "from braindecode_sam import SAM", path=[tmp_path])
    assert "skorch is broken" in done.stderr
    assert "torchaudio" not in done.stderr.splitlines()[-1]


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setattr(installation, "PACKAGES", ("torch", "no-such-package"))
    assert installation.versions()["no-such-package"] == "not installed"


def test_the_report_names_the_override_for_unlisted_cards(monkeypatch):
    monkeypatch.setenv("HSA_OVERRIDE_GFX_VERSION", "10.3.0")
    text, fits = installation.report()
    assert fits
    assert "HSA_OVERRIDE_GFX_VERSION=10.3.0" in text
