"""A real Firefox without a screen, driven by its own WebDriver BiDi: Debian has no geckodriver."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_PATIENCE = 120.0


class Firefox:
    """One page of a browser. https://w3c.github.io/webdriver-bidi/ has the commands."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        #: What the console said, policy violations included, at level warning or error.
        self.complaints: list[str] = []
        #: The addresses that were asked for.
        self.requested: list[str] = []
        self._send("session.new", capabilities={})
        self._page = self._send("browsingContext.getTree")["contexts"][0]["context"]
        self._send("session.subscribe", events=["log.entryAdded", "network.beforeRequestSent"])

    def _send(self, method: str, **parameters: Any) -> Any:
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self._socket.recv())
            if answer.get("id") == number:
                assert answer["type"] == "success", answer
                return answer["result"]
            if answer.get("method") == "log.entryAdded":
                entry = answer["params"]
                if entry["level"] in ("warn", "error"):
                    self.complaints.append(f"{entry['level']}: {entry['text']}")
            elif answer.get("method") == "network.beforeRequestSent":
                self.requested.append(answer["params"]["request"]["url"])

    def get(self, url: str) -> None:
        """Opens an address and waits until it is there."""
        self._send("browsingContext.navigate", context=self._page, url=url, wait="complete")
        self._send("browsingContext.activate", context=self._page)

    def resize(self, width: int, height: int) -> None:
        """Makes the page as wide and high as this, in CSS pixels."""
        self._send("browsingContext.setViewport", context=self._page, viewport={"width": width, "height": height})

    def evaluate(self, expression: str) -> Any:
        """The value of an expression of JavaScript; it has to be one that JSON has."""
        result = self._send(
            "script.evaluate",
            expression=f"JSON.stringify({expression})",
            target={"context": self._page},
            awaitPromise=True,
        )
        assert result["type"] == "success", result
        return json.loads(result["result"].get("value", "null"))

    def press(self, *keys: str) -> None:
        """Presses keys, one after the other. Without a screen the window never has the focus itself: the page's
        handlers of keys hear of it, but no button is pressed and no element told that it has the focus.
        """
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self._send(
            "input.performActions", context=self._page, actions=[{"type": "key", "id": "keys", "actions": actions}]
        )


@contextmanager
def firefox(folder: Path) -> Iterator[Firefox]:
    """A Firefox with a profile of its own in ``folder``; a skip where there is none (apt-get install firefox-esr)."""
    websocket = pytest.importorskip("websocket")  # selenium brings it
    program = shutil.which("firefox-esr") or shutil.which("firefox")
    if program is None:
        pytest.skip("firefox is not installed (apt-get install firefox-esr)")
    profile = folder / "profile"
    profile.mkdir()
    said = folder / "firefox.log"
    with said.open("w") as log, said.open() as reading:
        process = subprocess.Popen(
            [program, "--headless", "--no-remote", "--profile", str(profile), "--remote-debugging-port=0"],
            stdout=log,
            stderr=log,
        )
        try:
            address = f"{_listening(process, reading)}/session"
            socket = websocket.create_connection(address, timeout=_PATIENCE, suppress_origin=True)
            try:
                yield Firefox(socket)
            finally:
                socket.close()
        finally:
            process.terminate()
            process.wait()


def _listening(process: subprocess.Popen[bytes], reading: Any) -> str:
    """The address that it says it listens at."""
    text = ""
    while process.poll() is None:
        text += reading.read()
        found = re.search(r"WebDriver BiDi listening on (ws://\S+)\n", text)
        if found is not None:
            return found[1]
        try:
            process.wait(0.05)
        except subprocess.TimeoutExpired:
            continue
    pytest.fail(f"firefox ended: {text}")
