"""The rules with all their times shortened, so that the demo's alerts can be seen within two minutes."""

import re
from pathlib import Path

from . import export

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
# Windows hold at least four scrapes of 5 s, and nothing takes longer than a minute.
_SHORTEST, _LONGEST, _FACTOR = 20, 60, 20

PROMETHEUS = """\
# Prometheus for `traceloop demo`: prometheus --config.file=prometheus.yml --enable-feature=exemplar-storage
global:
  scrape_interval: 5s
  evaluation_interval: 5s
  external_labels:
    environment: demo
rule_files:
  - rules/*.rules.yml
scrape_configs:
  - job_name: demo
    static_configs:
      - targets: ["localhost:{port}"]
"""


def shorten(rules: str) -> str:
    """The text of a rules file with windows, offsets and waits about twenty times shorter. Names stay as they are."""

    def seconds(text: str) -> int:
        return int(text[:-1]) * _SECONDS[text[-1]]

    def window(match: re.Match[str]) -> str:
        return f"{match[1]}{min(_LONGEST, max(_SHORTEST, seconds(match[2]) // _FACTOR))}s"

    def wait(match: re.Match[str]) -> str:
        return f"{match[1]}{min(_LONGEST, seconds(match[2]) // _FACTOR)}s"

    rules = re.sub(r"(\[)(\d+[smhd])(?=\])", window, rules)
    rules = re.sub(r"(\boffset )(\d+[smhd])\b", window, rules)
    rules = re.sub(r"(\n\s+(?:for|keep_firing_for): )(\d+[smhd])\b", wait, rules)
    return re.sub(
        r"(process_start_time_seconds < )(\d+)",
        lambda match: f"{match[1]}{max(_SHORTEST, int(match[2]) // _FACTOR)}",
        rules,
    )


def write(directory: Path, port: int) -> list[Path]:
    """Writes prometheus.yml, which scrapes localhost:`port`, shortened rules and the dashboards; returns the files."""
    written = export(directory)
    (directory / "rules").mkdir(exist_ok=True)
    for path in sorted((Path(__file__).parent / "prometheus" / "rules").glob("*.yml")):
        head = "# For the demo: every time here is about twenty times shorter than in the rules for real use.\n"
        target = directory / "rules" / path.name
        target.write_text(head + shorten(path.read_text(encoding="utf-8")), encoding="utf-8")
        written.append(target)
    config = directory / "prometheus.yml"
    config.write_text(PROMETHEUS.format(port=port), encoding="utf-8")
    return [*written, config]
