"""What the collector and the processes around it tell each other by a byte or a signal."""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]  # `signal` brings in the enumerations, 10 ms

#: From the collector to its supervisor: stderr, and the listening socket, are held no more.
RELEASE_STDERR = b"e"
RELEASE_LISTENER = b"l"
#: Asks a collector to read what there is and to end, though its run goes on.
STOP_SIGNAL = signal.SIGUSR1
