"""Installed versions, and whether they are compatible.

torch and torchaudio are imported inside the functions, since they may fail.
"""

from __future__ import annotations

import importlib
import os
import platform
from importlib import metadata

PACKAGES = (
    "braindecode_sam", "torch", "torchaudio", "braindecode", "skorch", "scikit-learn",
    "mne", "numpy",
)  # fmt: skip

ADVICE = (
    "torch and torchaudio are not compatible, and braindecode imports both. An older"
    " torchaudio may refuse a newer torch, as 2.11.0 does torch 2.15, and a CPU build"
    " of one cannot load a CUDA build of the other. Try pip install --upgrade"
    " torchaudio. In a fresh virtual environment, pip install braindecode installs a"
    " compatible pair. For CPU or ROCm builds, install torch and torchaudio together"
    " with the selector on pytorch.org."
)


def report() -> tuple[str, bool]:
    """Return versions, devices and a verdict, and whether the package is usable."""
    lines = [f"Python {platform.python_version()}, {platform.platform()}"]
    for name in PACKAGES:
        try:
            lines.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            lines.append(f"{name} not installed")
    error = _import_error("torch")
    if error is None:
        lines += ["", "Devices", *(f"  {device}" for device in _devices())]
    error = error or _import_error("torchaudio") or _import_error("braindecode")
    verdict = "torch and torchaudio are compatible, and braindecode can be imported."
    lines += ["", verdict if error is None else explain(error)]
    return "\n".join(lines), error is None


def explain(error: Exception) -> str:
    """Say why the package cannot be imported, with advice if torchaudio is why."""
    what = f"{type(error).__name__}: {error}"
    if _import_error("torchaudio") is None:
        return f"braindecode_sam cannot be imported. {what}"
    return f"{ADVICE}\n{what}"


def _import_error(name: str) -> Exception | None:
    """Import a module and return the error, which need not be an ImportError.

    torchaudio raises RuntimeError for another version of CUDA, and OSError for a
    missing library.
    """
    try:
        importlib.import_module(name)
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        return error
    return None


def _devices() -> list[str]:
    """Describe PyTorch's devices, by the names that resolve_device accepts."""
    import torch

    from braindecode_sam.device import resolve_device, torch_build
    from braindecode_sam.threads import share_cores

    found = [f"PyTorch is {torch_build()}", f"auto: {resolve_device('auto')}"]
    found += [f"cpu: {torch.get_num_threads()} threads, share_cores {share_cores()}"]
    kind = "cuda" if torch.version.hip is None else "rocm"
    for index in range(torch.cuda.device_count()):
        found.append(f"{kind}:{index}: {torch.cuda.get_device_name(index)}")
    if torch.backends.mps.is_available():
        found.append("mps: Apple's GPU")
    override = os.environ.get("HSA_OVERRIDE_GFX_VERSION")
    return (
        found if override is None else [*found, f"HSA_OVERRIDE_GFX_VERSION={override}"]
    )
