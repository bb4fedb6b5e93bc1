"""The site log of a process, read back: which code site a number stands for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

from ..record.files import open_file
from ..record.layout import SITE_LIMIT
from ..record.sites import UNKNOWN_SITE, Site, site_of
from ..record.text import MAX_TEXT, printable

_MAX_LINE: Final = 1 << 20
# Read at a time: 65,536 sites, the most that there are, have 10 MB or so.
_MAX_READ: Final = 16 << 20
# All that is read of a log: a kilobyte for each of the sites that there may be.
_MAX_LOG: Final = 64 << 20


class SiteNames:
    """The places in the code that idents point to. Number 0, and numbers not (yet) written down, are ``unknown``."""

    def __init__(self, sites: Sequence[Site] = ()) -> None:
        """``sites``: of a process that records privately, its own growing list."""
        self._sites = sites
        self._cleaned: dict[int, Site] = {}

    def site(self, number: int) -> Site | None:
        """The site of this number; None where it is not written down (yet)."""
        if number == 0:
            return UNKNOWN_SITE
        site = self._cleaned.get(number)
        if site is None and 0 < number < len(self._sites):
            site = self._cleaned[number] = _cleaned(*self._sites[number])
        return site

    def label(self, number: int) -> str:
        """``module.qualname`` of this number, or ``unknown``."""
        return (self.site(number) or UNKNOWN_SITE).label

    def label_of(self, ident: float) -> str:
        """The same of an ident."""
        return (self.site(site_of(ident)) or UNKNOWN_SITE).label


class SiteLogReader(SiteNames):
    """The site log of a folder, read on as it grows. Lines that make no sense are passed over."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        self._by_number: dict[int, Site] = {}
        self._offset = 0

    def site(self, number: int) -> Site | None:
        """The site of this number, looked for in what was appended where it is not known."""
        if number == 0:
            return UNKNOWN_SITE
        site = self._by_number.get(number)
        if site is None:
            self.read()
            site = self._by_number.get(number)
        return site

    def module_of(self, file: str) -> str:
        """The module of a file, where a callback of it was ever seen; "" otherwise."""
        self.read()
        return next((site.module for site in self._by_number.values() if site.file == file), "")

    def read(self) -> None:
        """Takes in what was appended since the last time."""
        try:
            with open_file(self.path) as file:
                file.seek(self._offset)
                data = file.read(_MAX_READ) if self._offset < _MAX_LOG else b""
        except OSError:
            return
        end = data.rfind(b"\n") + 1  # the last line may be half written
        if not end and len(data) >= _MAX_LINE:
            end = len(data)  # no line is as long: none of it is ever looked at again
        self._offset += end
        for line in data[:end].split(b"\n"):
            if 0 < len(line) < _MAX_LINE:
                self._take(line)

    def _take(self, line: bytes) -> None:
        try:
            number, module, qualname, file, position = json.loads(line)
        except (ValueError, TypeError, RecursionError):
            return
        if type(number) is int and type(position) is int and 0 < number < SITE_LIMIT and 0 <= position < 1 << 31:
            self._by_number.setdefault(number, _cleaned(str(module), str(qualname), str(file), position))


def _cleaned(module: str, qualname: str, file: str, line: int) -> Site:
    return Site(printable(module), printable(qualname), printable(file, MAX_TEXT), line)
