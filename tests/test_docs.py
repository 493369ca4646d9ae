"""The code in README, guide and figures runs as it stands."""

import doctest
import re
import runpy
import shutil
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest

import braindecode_sam
from braindecode_sam import callbacks, datasets, models, optim

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [
    page for page in sorted(DOCS.rglob("*.rst")) if "\n>>> " in page.read_text()
    and not {"generated", "gallery", "_build"} & set(page.parts)
    and page.stem != "other_tools"  # test_other_tools.py runs it
]  # fmt: skip
IN_WORKERS = ("reproducing_and_resuming",)


def test_the_api_page_has_every_public_name():
    page = "".join((DOCS / f"{name}.rst").read_text() for name in ("api", "models"))
    listed = {name.split(".")[-1] for name in re.findall(r"^   ([\w.]+)$", page, re.M)}
    names = {name for name in braindecode_sam.__all__ if not name.startswith("__")}
    for package in (callbacks, datasets, models, optim):
        names |= set(package.__all__)
    assert names - {"SCORING", "SCORING_CLASSIFICATION"} <= listed


def test_the_readmes_snippet_runs(capsys):
    readme = (ROOT / "README.rst").read_text()
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
    for line, example in zip(printed, shown.strip().splitlines(), strict=True):
        number = r"NRMSE [\d.]+ on"
        assert re.sub(number, "", line) == re.sub(number, "", example.strip())


@pytest.mark.full
def test_the_readmes_figure_can_be_drawn(tmp_path):
    figures = tmp_path / "docs" / "figures"
    ignored = shutil.ignore_patterns("*.png")
    shutil.copytree(DOCS / "figures", figures, ignore=ignored)
    (tmp_path / "benchmarks").symlink_to(ROOT / "benchmarks")
    command = [sys.executable, "-W", "ignore", figures / "overview.py"]
    subprocess.run(command, check=True)
    assert (figures / "overview.png").stat().st_size > 10_000


def as_case(page):
    marks = [pytest.mark.full] if page.stem in IN_WORKERS else []
    return pytest.param(page, id=page.relative_to(DOCS).as_posix(), marks=marks)


# Nets of two epochs need not have learned anything, and compare says so.
@pytest.mark.filterwarnings("ignore:no better than the dummy:UserWarning")
@pytest.mark.parametrize("page", [as_case(page) for page in PAGES])
def test_the_examples_of_a_page(page, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")  # for workers
    report = []
    test = doctest.DocTestParser().get_doctest(
        page.read_text(), {}, page.stem, str(page), 0
    )
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    failed, tried = runner.run(test, out=report.append)
    plt.close("all")
    assert tried > 0
    assert not failed, "".join(report)


@pytest.mark.full
def test_the_guides_script_on_dask_runs(monkeypatch, capsys):
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")  # for workers
    monkeypatch.chdir(ROOT)
    script = runpy.run_path("docs/guide/on_dask.py")
    script["main"]()
    scores = [float(score) for score in capsys.readouterr().out.strip("[]\n").split()]
    assert len(scores) == 3
    assert np.isfinite(scores).all()
