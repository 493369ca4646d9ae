"""``python -m braindecode_sam``, with compatible and incompatible torchaudio."""

import os
import runpy
import subprocess
import sys
from importlib import metadata

import pytest
import torch

FULL = pytest.mark.full
# Errors of torchaudio for a missing library and for another version of CUDA.
REFUSALS = [
    'OSError("libc10_cuda.so: cannot open shared object file")',
    pytest.param('RuntimeError("compiled with different CUDA versions")', marks=FULL),
]
AS_A_USER = """
import runpy, braindecode_sam
from braindecode_sam.optim import SAM
print(SAM.__name__, hasattr(braindecode_sam, "no_such_name"))
try:
    from braindecode_sam import make_regressor
except ImportError as error:
    print("ImportError:", error)
runpy.run_module("braindecode_sam", run_name="__main__")
"""


def python(code, path):
    environment = os.environ | {"PYTHONPATH": str(path), "PYTHONWARNINGS": "ignore"}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_torchaudio_that_does_not_fit_is_reported(refusal, tmp_path):
    (tmp_path / "torchaudio.py").write_text(f"raise {refusal}\n")
    done = python(AS_A_USER, tmp_path)
    assert done.returncode == 1
    optimizers, told = done.stdout.split("\n", 1)
    assert optimizers == "SAM False"  # they work without braindecode
    why, report = told.split("\nbraindecode_sam ", 1)
    for text in (why, report):
        assert "torch and torchaudio are not compatible" in text
        assert refusal.split('"')[1] in text
    assert why.startswith("ImportError: ")
    assert "Try pip install --upgrade torchaudio." in report


@FULL
def test_another_broken_part_is_not_blamed_on_torchaudio(tmp_path):
    (tmp_path / "skorch.py").write_text('raise ImportError("skorch is broken")\n')
    done = python("from braindecode_sam import SAM", tmp_path)
    assert "skorch is broken" in done.stderr
    assert "torchaudio" not in done.stderr.splitlines()[-1]


@FULL
def test_the_fast_models_work_without_the_hub(tmp_path):
    (tmp_path / "huggingface_hub.py").write_text("raise ImportError('not here')\n")
    code = (
        "from braindecode.models.base import HAS_HF_HUB; from braindecode_sam import"
        " FastEEGNet; model = FastEEGNet(n_chans=4, n_times=200, n_outputs=1);"
        "print(HAS_HF_HUB, type(model.conv_temporal).__name__)"
    )
    done = python(code, tmp_path)
    assert done.stdout.split() == ["False", "WaitingConv2d"], done.stderr


def test_the_report_names_what_is_here_and_what_is_missing(monkeypatch, capsys):
    version = metadata.version

    def without_mne(name):
        return version("no-such-package" if name == "mne" else name)

    monkeypatch.setattr(metadata, "version", without_mne)
    monkeypatch.setenv("HSA_OVERRIDE_GFX_VERSION", "10.3.0")
    with pytest.raises(SystemExit) as done:
        runpy.run_module("braindecode_sam", run_name="__main__")
    assert done.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    for name in ("braindecode_sam", "torchaudio", "braindecode", "skorch", "numpy"):
        assert f"{name} {version(name)}" in lines
    assert "mne not installed" in lines
    (build,) = [line for line in lines if line.startswith("  PyTorch is a ")]
    assert build.endswith(f" build, torch {torch.__version__}")
    assert [line for line in lines if line.startswith("  auto: ")]
    assert "  HSA_OVERRIDE_GFX_VERSION=10.3.0" in lines
    assert lines[-1].startswith("torch and torchaudio are compatible")
