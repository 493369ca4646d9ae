"""The mark notices a fix, and the page has every test that it marks."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
SCRIPT = """
from tests.upstream.mark import until_fixed

@until_fixed("torch", "remove the workaround", ValueError)
def test_defect():
    {body}
"""


@pytest.mark.parametrize(
    ("body", "printed"),
    [
        ("raise ValueError", "1 xfailed"),
        ("raise TypeError", "1 failed"),
        ("pass", r"torch [\d.+\w]+ has the fix: remove the workaround(.*\s)*1 failed"),
    ],
)
def test_only_the_known_failure_is_expected(body, printed, tmp_path):
    path = tmp_path / "test_defect.py"
    path.write_text(SCRIPT.format(body=body))
    options = ["-n0", "-c", path.with_suffix(".ini"), "--rootdir", tmp_path]
    path.with_suffix(".ini").touch()
    command = [sys.executable, "-m", "pytest", *options, path]
    # A second pytest with --cov would erase what this one has measured.
    environment = {**os.environ, "PYTEST_ADDOPTS": ""}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert re.search(printed, done.stdout), done.stdout + done.stderr


@pytest.mark.parametrize("package", ["braindecode", "skorch", "torch"])
def test_the_page_shows_every_reproduction(package):
    page = (ROOT / "docs" / "upstream.rst").read_text()
    tests = (FOLDER / f"test_{package}.py").read_text()
    marked = re.findall(r"^@until_fixed\((?:.*\n)*?def (\w+)", tests, re.M)
    assert len(marked) >= 6
    shown = re.findall(r"^ +:pyobject: (\w+)$", page, re.M)
    assert set(marked) <= set(shown)
