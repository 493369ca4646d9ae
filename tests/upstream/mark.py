"""A mark for tests that fail until another project has changed."""

from importlib.metadata import version

import pytest


def until_fixed(package, todo, raises=AssertionError):
    """Expect a test to fail, and fail with instructions once it passes.

    Parameters
    ----------
    package : str
        Name of the other project's distribution.
    todo : str
        What to do here after the fix.
    raises : type, default=AssertionError
        The only exception that counts as the known failure.
    """
    reason = f"if this passes, {package} {version(package)} has the fix: {todo}"
    return pytest.mark.xfail(strict=True, raises=raises, reason=reason)
