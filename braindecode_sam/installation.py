"""What is installed here, and whether its parts fit together."""

from __future__ import annotations

import importlib
import os
import platform
from importlib import metadata

PACKAGES = (
    "braindecode_sam",
    "torch",
    "torchaudio",
    "braindecode",
    "skorch",
    "scikit-learn",
    "mne",
    "numpy",
)

ADVICE = (
    "torch and torchaudio do not fit together, and braindecode imports both. Their"
    " newest releases need not match: torchaudio 2.11 refuses torch 2.15, and a CPU"
    " build of one cannot load a CUDA build of the other. In a fresh virtual"
    ' environment, pip install "torch<2.15" braindecode installs a pair that fits; for'
    " CPU or ROCm builds install torch and torchaudio together, by the selector on"
    " pytorch.org."
)


def versions() -> dict[str, str]:
    """Give the installed versions of what matters here.

    Returns
    -------
    versions : dict of str to str
        By name; "not installed" where there is none.

    Examples
    --------
    >>> from braindecode_sam.installation import versions
    >>> list(versions())[:2]
    ['braindecode_sam', 'torch']
    """
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def import_problem(name: str) -> Exception | None:
    """Import a module, and tell what went wrong if anything did.

    Parameters
    ----------
    name : str
        Of the module.

    Returns
    -------
    error : Exception or None
        What importing it raised. A library that was built against another one raises
        more than ImportError: torchaudio raises RuntimeError for another version of
        CUDA and OSError for a library that the other build lacks.

    Examples
    --------
    >>> from braindecode_sam.installation import import_problem
    >>> import_problem("torch") is None
    True
    >>> import_problem("no_such_module")
    ModuleNotFoundError("No module named 'no_such_module'")
    """
    try:
        importlib.import_module(name)
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        return error
    return None


def explain(error: Exception) -> str:
    """Say what can be done where the package's parts cannot be imported.

    Parameters
    ----------
    error : Exception
        What importing them raised.

    Returns
    -------
    text : str
        The error, and advice if torchaudio is the reason.
    """
    what = f"{type(error).__name__}: {error}"
    if import_problem("torchaudio") is None:
        return f"braindecode_sam cannot be imported. {what}"
    return f"{ADVICE}\n{what}"


def devices() -> list[str]:
    """List what PyTorch can compute on here.

    Returns
    -------
    devices : list of str
        The build of PyTorch, then devices with the names that
        :func:`braindecode_sam.resolve_device` accepts.

    Examples
    --------
    >>> from braindecode_sam.installation import devices
    >>> devices()[2].startswith("cpu: ")
    True
    """
    import torch

    from braindecode_sam.device import resolve_device, torch_build

    found = [f"PyTorch is {torch_build()}", f"auto: {resolve_device('auto')}"]
    found += [f"cpu: {torch.get_num_threads()} threads"]
    kind = "cuda" if torch.version.hip is None else "rocm"
    for index in range(torch.cuda.device_count()):
        found.append(f"{kind}:{index}: {torch.cuda.get_device_name(index)}")
    if torch.backends.mps.is_available():
        found.append("mps: Apple's GPU")
    return found


def report() -> tuple[str, bool]:
    """Describe the installation.

    Returns
    -------
    text : str
        Lines to print.
    fits : bool
        Whether the package can be used.
    """
    lines = [f"Python {platform.python_version()}, {platform.platform()}"]
    lines += [f"{name} {version}" for name, version in versions().items()]
    error = import_problem("torch")
    if error is None:
        lines += ["", "Devices", *(f"  {device}" for device in devices()), *_rocm()]
    error = error or import_problem("torchaudio") or import_problem("braindecode")
    verdict = "torch and torchaudio fit together, braindecode can be imported."
    return "\n".join([*lines, "", verdict if error is None else explain(error)]), (
        error is None
    )


def _rocm() -> list[str]:
    override = os.environ.get("HSA_OVERRIDE_GFX_VERSION")
    return [] if override is None else [f"  HSA_OVERRIDE_GFX_VERSION={override}"]
