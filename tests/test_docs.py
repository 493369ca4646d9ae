"""The API page lists every public name, and every example has a test."""

import importlib
import inspect
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import braindecode_sam
from braindecode_sam import callbacks, datasets, models, optim

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "api.rst").read_text()
LISTED = re.findall(r"^   ([\w.]+)$", PAGE, re.MULTILINE)


def public_names():
    names = {n for n in braindecode_sam.__all__ if not n.startswith("__")}
    for package in (callbacks, datasets, models, optim):
        names |= set(package.__all__)
    return sorted(names - {"SCORING", "SCORING_CLASSIFICATION"})


@pytest.mark.parametrize("name", public_names())
def test_public_names_are_on_the_api_page(name):
    assert name in {listed.split(".")[-1] for listed in LISTED}


def test_what_the_api_page_lists_is_there():
    package = "braindecode_sam"
    for line in PAGE.splitlines():
        if line.startswith(".. currentmodule:: "):
            package = line.split()[-1]
        elif line.strip() in LISTED:
            *modules, name = line.strip().split(".")
            module = importlib.import_module(".".join([package, *modules]))
            assert inspect.getdoc(getattr(module, name)), line


@pytest.mark.parametrize(
    "script", sorted((ROOT / "examples").glob("plot_*.py")), ids=lambda p: p.name
)
def test_examples_are_tested_and_belong_to_the_gallery(script):
    tests = (ROOT / "tests/test_examples.py").read_text()
    assert re.search(rf'"(examples/)?{script.stem}(\.py)?"', tests)
    listed = (ROOT / "examples/index.rst").read_text()
    assert listed.count(f"../examples/{script.name}") == 1
    title, line = script.read_text().splitlines()[1:3]
    assert line == "=" * len(title)
    assert len(title) <= 48  # or it does not fit its card
    assert "argparse" not in script.read_text()  # a notebook has no command line


def test_the_readme_is_short_and_its_snippet_runs(capsys):
    readme = (ROOT / "README.rst").read_text()
    assert len(readme.splitlines()) < 100
    code = readme.split(".. code-block:: python\n")[1].split("\nIt prints")[0]
    small = {
        "random_state=0)": "5, 8, n_chans=4, n_times=128, random_state=0)",
        "max_epochs=20, batch_size=32": "max_epochs=1, batch_size=8",
    }
    for text, replacement in small.items():
        assert text in code
        code = code.replace(text, replacement)
    exec(textwrap.dedent(code), {})
    printed = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in printed] == ["rho=0", "rho=0.1"]
    shown = readme.split("It prints")[1].split("::\n")[1].split("``")[0]
    for line, example in zip(printed, shown.strip().splitlines(), strict=False):
        number = r"NRMSE [\d.]+ on"
        assert re.sub(number, "", line) == re.sub(number, "", example.strip())


@pytest.mark.slow
def test_the_readme_figure_can_be_drawn(tmp_path):
    figures = tmp_path / "docs" / "figures"
    ignored = shutil.ignore_patterns("*.png")
    shutil.copytree(ROOT / "docs" / "figures", figures, ignore=ignored)
    (tmp_path / "benchmarks").symlink_to(ROOT / "benchmarks")
    command = [sys.executable, "-W", "ignore", figures / "overview.py"]
    subprocess.run(command, check=True)
    assert (figures / "overview.png").stat().st_size > 10_000
