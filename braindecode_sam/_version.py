"""The one place that defines the version."""

__version__ = "0.3.0"
