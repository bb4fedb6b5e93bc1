"""The kinds of transports whose peers do not read, as the record names them."""

from __future__ import annotations

from typing import Final

KINDS: Final = ("stream", "tls", "datagram", "pipe")
