"""Installed versions, and whether they are compatible."""

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
    "torch and torchaudio are not compatible, and braindecode imports both. Their"
    " newest releases need not match: torchaudio 2.11 does not support torch 2.15, and"
    " a CPU build of one cannot load a CUDA build of the other. In a fresh virtual"
    ' environment, pip install "torch<2.15" braindecode installs a compatible pair. For'
    " CPU or ROCm builds, install torch and torchaudio together with the selector on"
    " pytorch.org."
)


def versions() -> dict[str, str]:
    """Return the versions of this package and of its main dependencies.

    Returns
    -------
    versions : dict of str to str
        Version of each package, or "not installed".

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
    """Import a module and return the error, if any.

    Parameters
    ----------
    name : str
        Name of the module.

    Returns
    -------
    error : Exception or None
        Error that the import raised. It is not always an ImportError. torchaudio raises
        RuntimeError for another version of CUDA, and OSError for a missing library.

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
    """Explain why the package cannot be imported.

    Parameters
    ----------
    error : Exception
        Error that the import raised.

    Returns
    -------
    text : str
        The error, and advice if torchaudio is its cause.
    """
    what = f"{type(error).__name__}: {error}"
    if import_problem("torchaudio") is None:
        return f"braindecode_sam cannot be imported. {what}"
    return f"{ADVICE}\n{what}"


def devices() -> list[str]:
    """List the devices that PyTorch can use.

    Returns
    -------
    devices : list of str
        Build of PyTorch, then the devices by the names that
        :func:`braindecode_sam.resolve_device` accepts.

    Examples
    --------
    >>> from braindecode_sam.installation import devices
    >>> devices()[2].startswith("cpu: ")
    True
    """
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
    return found


def report() -> tuple[str, bool]:
    """Describe the installation, as ``python -m braindecode_sam`` prints it.

    Returns
    -------
    text : str
        Versions, devices and a verdict, as lines to print.
    is_usable : bool
        Whether the package can be imported.

    Examples
    --------
    >>> from braindecode_sam.installation import report
    >>> text, is_usable = report()
    >>> text.splitlines()[-1], is_usable
    ('torch and torchaudio are compatible, and braindecode can be imported.', True)
    """
    lines = [f"Python {platform.python_version()}, {platform.platform()}"]
    lines += [f"{name} {version}" for name, version in versions().items()]
    error = import_problem("torch")
    if error is None:
        lines += ["", "Devices", *(f"  {device}" for device in devices()), *_rocm()]
    error = error or import_problem("torchaudio") or import_problem("braindecode")
    verdict = "torch and torchaudio are compatible, and braindecode can be imported."
    return "\n".join([*lines, "", verdict if error is None else explain(error)]), (
        error is None
    )


def _rocm() -> list[str]:
    override = os.environ.get("HSA_OVERRIDE_GFX_VERSION")
    return [] if override is None else [f"  HSA_OVERRIDE_GFX_VERSION={override}"]
