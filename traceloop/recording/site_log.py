"""The site log: one line for each place in the code that ever ran as a callback of this process.

A file ``sites`` beside the rings, JSON lines ``[number, module, qualname, file, line]``, appended with one ``write``
before the first record that uses the number. It is bounded: past ``MAX_SITES`` everything is site 0.
"""

from __future__ import annotations

import json
import weakref
from types import CodeType

from ..record.layout import SITE_LIMIT
from ..record.sites import UNKNOWN_SITE, Site
from . import own_threads
from .own_file import OwnFile

MAX_SITES = SITE_LIMIT - 1


class SiteLog:
    """Numbers sites; shared by the loops of a process and thread-safe."""

    def __init__(self, path: str | None) -> None:
        self._lock = own_threads.RLock()  # see watchdog.py
        self._numbers: dict[Site, int] = {}
        self.sites: list[Site] = [UNKNOWN_SITE]
        # By id of the code object, so that a callback is found with one look-up. An entry dies with its code object,
        # since the next one may get the same id.
        self.by_code: dict[int, float] = {}
        self._references: dict[int, weakref.ref[CodeType]] = {}
        self._file: OwnFile | None = None
        if path is not None:
            try:
                self._file = OwnFile(path)
            except OSError:
                pass

    def number(self, site: Site) -> float:
        """The site's number, written down if it is new; 0 where there is no room."""
        number = self._numbers.get(site)
        if number is not None:
            return float(number)
        with self._lock:
            number = self._numbers.get(site)
            if number is not None:
                return float(number)
            number = len(self.sites)
            if number > MAX_SITES:
                return 0.0
            # The number is taken first: a finalizer or a signal handler may run this method before the line is written.
            self.sites.append(site)
            if self._file is not None and not self._write(self._file, number, site):
                if self.sites[-1] is site:
                    self.sites.pop()
                return 0.0
            self._numbers[site] = number
            return float(number)

    def _write(self, file: OwnFile, number: int, site: Site) -> bool:
        try:
            if file.append(json.dumps([number, *site]).encode("ascii", "replace") + b"\n"):
                return True
            file.append(b"\n")
        except Exception:
            pass
        return False

    def remember(self, code: CodeType, number: float) -> None:
        """Lets ``by_code`` find ``number`` until the code object is gone."""
        key = id(code)
        references = self._references
        by_code = self.by_code

        def forget(_: object) -> None:
            by_code.pop(key, None)
            references.pop(key, None)

        references[key] = weakref.ref(code, forget)
        by_code[key] = number

    def label_at(self, file: str, line: int) -> str | None:
        """The label of the innermost callback whose code includes this line; None where none is known."""
        found: tuple[int, str] | None = None
        for key, reference in list(self._references.items()):
            code = reference()
            if code is None or code.co_filename != file or code.co_firstlineno > line:
                continue
            last = max((each for *_, each in code.co_lines() if each is not None), default=0)
            number = self.by_code.get(key)
            if number is not None and line <= last and (found is None or last - code.co_firstlineno < found[0]):
                found = last - code.co_firstlineno, self.sites[int(number)].label
        return found[1] if found is not None else None

    def leave(self) -> None:
        """In the child of a fork: the file is the parent's, and the lock may have been held."""
        self._lock = own_threads.RLock()
        self.close()

    def close(self) -> None:
        """Closes the log's file; what is numbered from now on is not written down."""
        file, self._file = self._file, None
        if file is not None:
            file.close()
