"""Every module imports only what the architecture allows."""

import ast
import subprocess
import sys
from pathlib import Path

import braindecode_sam

PACKAGE = Path(braindecode_sam.__file__).parent
EVERYWHERE = {
    f"braindecode_sam.{name}"
    for name in ("_arguments", "_fingerprint", "_interrupts", "_random", "threads")
}
ARRAYS = {"numpy", "pandas", "scipy", "sklearn"}
ALLOWED = {
    "_arguments": set(),
    "_interrupts": set(),
    "_random": {"numpy", "torch"},
    "_fingerprint": {"numpy", "pandas", "torch", "skorch"},
    "_version": set(),
    "optim": {"torch", "braindecode_sam.optim"},
    "models": {"torch", "scipy", "braindecode.models", "braindecode_sam.models"},
    "models/speed_up": {"torch", "pandas", "braindecode_sam.models"},
    "callbacks": {"torch", "numpy", "skorch", "sklearn", "braindecode_sam.callbacks"},
    "callbacks/sam": {"torch", "numpy", "skorch", "sklearn"}
    | {"braindecode_sam.optim"},
    "callbacks/speed_up": {"skorch", "sklearn", "braindecode_sam.models"},
    "callbacks/window_check": {"torch", "numpy", "skorch", "sklearn", "mne"}
    | {"braindecode_sam._checks"},
    "_checks": {"numpy", "pandas"},
    "amp": {"torch", "skorch"},
    "augmentation": {"torch", "numpy", "braindecode.augmentation"},
    "landscape": {"torch", "numpy", "sklearn"},
    "metrics": {"numpy", "scipy", "sklearn", "braindecode_sam._checks"},
    "datasets": {"numpy", "pandas", "sklearn", "mne", "braindecode.datasets"}
    | {"braindecode_sam._checks", "braindecode_sam.datasets"},
    "model_selection": {"numpy", "sklearn", "torch", "skorch", "joblib", "distributed"}
    | {"braindecode.datasets", "braindecode_sam._checks"},
    "nets": {"numpy", "sklearn", "torch", "skorch", "braindecode"}
    | {"braindecode_sam._checks", "braindecode_sam.nets"},
    "nets/_conventions": {"numpy", "skorch", "torch", "braindecode"},
    "configs": {"pydantic", "torch", "braindecode.models"},
    "device": {"torch"},
    "threads": {"torch"},
    "_installation": {"torch", "braindecode_sam.device"},
    "__main__": {"braindecode_sam._installation"},
    "comparison": ARRAYS
    | {"joblib", "matplotlib", "skorch", "torch"}
    | {f"braindecode_sam.{name}" for name in ("callbacks", "_checks", "comparison")}
    | {f"braindecode_sam.{name}" for name in ("metrics", "model_selection")},
    "visualization": {"matplotlib", "numpy"},
    "front": {"matplotlib", "mne", "numpy", "torch"},
}
MEET = {"__init__", "estimators"}


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module


def room(path):
    """The file's own rules, or its folder's."""
    inside = path.relative_to(PACKAGE).with_suffix("")
    return inside.as_posix() if inside.as_posix() in ALLOWED else inside.parts[0]


def test_every_file_imports_only_what_its_room_may():
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        if room(path) in MEET:
            continue
        allowed = ALLOWED[room(path)] | EVERYWHERE
        for name in imported(path):
            known = any(name == a or name.startswith(a + ".") for a in allowed)
            if not known and name.split(".")[0] not in sys.stdlib_module_names:
                wrong.append(f"{path.relative_to(PACKAGE)} imports {name}")
    assert not wrong


def test_no_room_imports_another_rooms_private_file():
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        own = room(path).split("/")[0]
        for name in imported(path):
            package, *inside = name.split(".")
            if package == "braindecode_sam" and len(inside) > 1 and inside[0] != own:
                is_private = any(part.startswith("_") for part in inside[1:])
                wrong += [f"{path.relative_to(PACKAGE)} imports {name}"] * is_private
    assert not wrong


def test_importing_the_package_imports_nothing_heavy():
    """The compiler and the configurations take longer than the other imports."""
    heavy = {"torch._dynamo", "braindecode_sam.configs", "braindecode.models.config"}
    script = (
        "import sys, braindecode; before = set(sys.modules);"
        "import braindecode_sam;"
        f"found = {heavy} & (set(sys.modules) - before);"
        "assert not found, found"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True)


def test_every_public_name_can_be_imported():
    assert "SAM" in braindecode_sam.__all__
    for name in braindecode_sam.__all__:
        assert getattr(braindecode_sam, name) is not None
