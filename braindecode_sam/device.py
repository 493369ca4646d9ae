"""Device names, checked against this machine and this build of PyTorch."""

from __future__ import annotations

import re

import torch

__all__ = ["resolve_device"]

ACCEPTED = "'auto', 'cpu', 'cuda', 'cuda:N', 'rocm', 'rocm:N' or 'mps'"
PATTERN = re.compile(r"(auto|cpu|mps)(?::0)?|(cuda|rocm)(?::(\d+))?")

NO_HIP = (
    "device {device!r} needs a ROCm build of PyTorch, but this is {build}. Install one"
    " with the selector on pytorch.org (Linux, Pip, Python, ROCm). GPUs that ROCm does"
    " not list also need the environment variable HSA_OVERRIDE_GFX_VERSION, such as"
    " 10.3.0 for the RX 5600 XT (gfx1010)."
)


def resolve_device(device: str | torch.device = "auto") -> str:
    """Return PyTorch's name of a device, and check that it is available.

    ROCm builds of PyTorch address AMD GPUs as ``"cuda"``. This function also accepts
    ``"rocm"``, and raises if PyTorch was built without ROCm.

    Parameters
    ----------
    device : str or torch.device, default="auto"
        ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"rocm"``, ``"rocm:0"``, ``"mps"`` or
        ``"auto"``. The last is a GPU if PyTorch can use one, else the CPU.

    Returns
    -------
    device : str
        Name that ``torch.device`` and ``EEGRegressor(device=...)`` accept.

    Raises
    ------
    ValueError
        If the kind of device is unknown, or no device has that index.
    RuntimeError
        If this build of PyTorch or this machine does not support the device.

    Notes
    -----
    An AMD GPU that ROCm does not list may still work. The RX 5600 XT (gfx1010) needs
    ``HSA_OVERRIDE_GFX_VERSION=10.3.0`` in the environment of the process.

    Examples
    --------
    >>> from braindecode_sam import resolve_device
    >>> resolve_device("cpu")
    'cpu'
    """
    match = PATTERN.fullmatch(str(device))
    if match is None:
        raise ValueError(f"device must be {ACCEPTED}, got {device!r}")
    plain, gpu, index = match.groups()
    if plain == "cpu":
        return plain
    if plain == "auto":
        has_mps = torch.backends.mps.is_available()
        return "cuda" if torch.cuda.is_available() else "mps" if has_mps else "cpu"
    if gpu == "rocm" and torch.version.hip is None:
        raise RuntimeError(NO_HIP.format(device=device, build=torch_build()))
    kind, what = (torch.cuda, "a GPU") if gpu else (torch.backends.mps, "Apple's MPS")
    if not kind.is_available():
        raise RuntimeError(
            f"device {device!r} needs {what}, but PyTorch finds none here"
            f" ({torch_build()}). Use 'cpu', or 'auto' for the best available device."
        )
    if index is None:
        return plain or "cuda"
    count = torch.cuda.device_count()
    if int(index) >= count:
        raise ValueError(
            f"device {device!r} does not exist: PyTorch finds {count} GPU(s), so the"
            f" index must be between 0 and {count - 1}"
        )
    return f"cuda:{int(index)}"


def torch_build() -> str:
    """Return the kind of this build of PyTorch, and its version."""
    kind = "CPU"
    for name, version in {
        "CUDA": torch.version.cuda,
        "ROCm": torch.version.hip,
    }.items():
        kind = kind if version is None else f"{name} {version}"
    return f"a {kind} build, torch {torch.__version__}"
