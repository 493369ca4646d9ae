"""The code of the user guide and of the pages around it runs as it stands."""

import doctest
import os
import re
import runpy
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
NAMES = ("installation", "migrating", "faq", "glossary")
PAGES = [*sorted((DOCS / "guide").glob("*.rst")), *(DOCS / f"{n}.rst" for n in NAMES)]
WITH_CODE = [page for page in PAGES if ">>> " in page.read_text()]
OPTIONS = doctest.NORMALIZE_WHITESPACE


def name_of(page):
    return page.relative_to(DOCS).with_suffix("").as_posix()


@pytest.mark.slow
# Nets of two epochs need not have learned anything, and compare says so.
@pytest.mark.filterwarnings("ignore:no better than the dummy:UserWarning")
@pytest.mark.parametrize("page", WITH_CODE, ids=name_of)
def test_examples_of_a_page(page, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")  # for workers
    report = []
    test = doctest.DocTestParser().get_doctest(
        page.read_text(), {}, name_of(page), str(page), 0
    )
    runner = doctest.DocTestRunner(optionflags=OPTIONS)
    failed, tried = runner.run(test, out=report.append)
    plt.close("all")
    assert tried > 0
    assert not failed, "".join(report)
