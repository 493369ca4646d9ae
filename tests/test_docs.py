"""The documentation names what there is: every public name, every example's test."""

import importlib
import inspect
import re
from pathlib import Path

import pytest

import braindecode_sam
from braindecode_sam import datasets, models, optim

ROOT = Path(__file__).resolve().parents[1]
# What the models are made of has docstrings of its own, but is nobody's to call.
MODULES = [
    "callbacks", "checkpoint", "checks", "configs", "device", "installation",
    "landscape", "metrics", "mixed_precision", "model_selection", "regressor",
    "seeding", "visualization",
]  # fmt: skip
INTERNAL = {  # helpers that other modules of this package share
    "check_targets", "numpy_state", "read_checkpoint", "set_numpy_state",
    "write_checkpoint",
}  # fmt: skip


def public_names():
    names = {n for n in braindecode_sam.__all__ if not n.startswith("__")}
    for package in (datasets, models, optim):
        names |= set(package.__all__)
    for name in MODULES:
        module = importlib.import_module(f"braindecode_sam.{name}")
        names |= {
            key
            for key, value in vars(module).items()
            if (inspect.isfunction(value) or inspect.isclass(value))
            and value.__module__ == module.__name__
            and not key.startswith("_")
        }
    return sorted(names - INTERNAL)


@pytest.mark.parametrize("name", public_names())
def test_public_names_are_on_the_api_page(name):
    page = (ROOT / "docs" / "api.rst").read_text()
    assert re.search(rf"(^   |[. ]){name}$", page, re.MULTILINE)


def test_the_api_page_names_nothing_else():
    page = (ROOT / "docs" / "api.rst").read_text()
    listed = re.findall(r"^   (?:\w+\.)*(\w+)$", page, re.MULTILINE)
    assert sorted(listed) == sorted(set(public_names()) - {"SCORING"})


@pytest.mark.parametrize(
    "script", sorted((ROOT / "examples").glob("*.py")), ids=lambda p: p.name
)
def test_examples_are_tested_and_belong_to_the_gallery(script):
    assert script.name.startswith("plot_")
    assert f"examples/{script.name}" in (ROOT / "tests/test_examples.py").read_text()
    title, line = script.read_text().splitlines()[1:3]
    assert line == "=" * len(title)
