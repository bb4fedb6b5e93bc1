"""The version of the distribution, in one place: nothing below the package itself has to import its face."""

__version__ = "0.1.0"
