"""A record as a file for other tools, handle by handle: Perfetto, Chrome, JSON lines, OTLP."""
