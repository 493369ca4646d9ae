"""Short scripts as users write them, each in its own process."""

import fnmatch
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SCRIPTS = sorted((Path(__file__).parent / "as_a_user").glob("*.py"))
# Warnings of other packages; see docs/limits.rst.
KNOWN = ("*Montage name *", "*Using padding='same' with even kernel lengths*")


def wanted(script, title):
    """Patterns of lines in the comment at the end of a script."""
    comments = script.read_text().split("\n# Prints:\n")[1].splitlines()
    parts = {"Prints:": [], "Warns:": []}
    current = "Prints:"
    for line in comments:
        text = line.removeprefix("# ")
        current = text if text in parts else current
        if text not in parts:
            parts[current].append(text)
    return parts[title]


def is_like(line, pattern):
    literal = re.sub(r"([\[\]?])", r"[\1]", pattern)  # only * is special
    return fnmatch.fnmatchcase(line, literal)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_prints_what_it_says_and_warns_of_nothing_else(script, tmp_path):
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, timeout=300,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [line.rstrip() for line in done.stdout.splitlines()]
    patterns = wanted(script, "Prints:")
    printed = iter(lines)
    for pattern in patterns:
        assert any(is_like(line, pattern) for line in printed), (pattern, lines)
    warned = re.findall(r"^.*Warning: .*$", done.stderr, flags=re.MULTILINE)
    expected = wanted(script, "Warns:")
    for warning in warned:
        assert any(is_like(warning, p) for p in (*KNOWN, *expected)), warning
    for pattern in expected:
        assert any(is_like(warning, pattern) for warning in warned), pattern
