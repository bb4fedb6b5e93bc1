"""The version of the distribution, in one place: nothing below the package itself has to import its face."""

from __future__ import annotations

__version__ = "0.1.0"
