"""Short scripts as users write them."""

import fnmatch
import re
import runpy
import warnings
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).parent / "as_a_user").glob("*.py"))
# Warnings of other packages; see docs/limits.rst.
KNOWN = ("Using padding='same' with even kernel lengths*",)
# What Python does not show unless asked to.
HIDDEN = (DeprecationWarning, ImportWarning, PendingDeprecationWarning, ResourceWarning)


def wanted(script):
    """Patterns of what is printed and of warnings, in the comment at the end."""
    comment = script.read_text().split("\n# Prints:\n")[1]
    text = re.sub("^# ", "", comment, flags=re.MULTILINE)
    printed, _, warned = text.partition("Warns:\n")
    return printed.splitlines(), warned.splitlines()


def is_like(line, pattern):
    literal = re.sub(r"([\[\]?])", r"[\1]", pattern)  # only * is special
    return fnmatch.fnmatchcase(line, literal)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_prints_what_it_says_and_warns_of_nothing_else(
    script, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for category in HIDDEN:
            warnings.simplefilter("ignore", category)
        runpy.run_path(str(script), run_name="__main__")
    prints, expected = wanted(script)
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    printed = iter(lines)
    for pattern in prints:
        assert any(is_like(line, pattern) for line in printed), (pattern, lines)
    warned = [str(warning.message) for warning in caught]
    for warning in warned:
        assert any(is_like(warning, p) for p in (*KNOWN, *expected)), warning
    for pattern in expected:
        assert any(is_like(warning, pattern) for warning in warned), pattern
