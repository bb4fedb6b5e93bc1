"""Draws the dashboards from a running Prometheus: `python docs/images/tool/draw.py http://localhost:9090`.

Needs `npm install` in this folder (or in --modules) and Chromium. Queries go to Prometheus as Grafana would send them,
the answers to Grafana's own components (panels.jsx), and Chromium takes the picture. It is how the panels were looked
at, since a Grafana server was not at hand.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from pathlib import Path

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[2]


def ask(server, path, **parameters):
    body = urllib.parse.urlencode(parameters).encode()
    with urllib.request.urlopen(f"{server}/api/v1/{path}", body, timeout=30) as answer:
        return json.load(answer)["data"]["result"]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("server")
    parser.add_argument("--seconds", type=float, default=3600, help="time range up to now")
    parser.add_argument("--scrape", type=float, default=15, help="scrape interval, for $__rate_interval")
    parser.add_argument("--end", type=float, default=None)
    parser.add_argument("--width", type=int, default=1600)
    parser.add_argument("--modules", type=Path, default=HERE, help="where node_modules is")
    parser.add_argument("--out", type=Path, default=HERE.parent)
    parser.add_argument("--job", default=".+")
    parser.add_argument("--say", action="append", default=[], metavar="OLD=NEW", help="keep a path of yours out of it")
    parser.add_argument("--only", action="append")
    options = parser.parse_args()
    end = options.end or time.time()
    step = max(options.scrape, options.seconds / 300)
    start = (end - options.seconds) // step * step
    rate = max(step + options.scrape, 4 * options.scrape)
    values = {"$__rate_interval": f"{rate:.0f}s", "$__range": f"{options.seconds:.0f}s", "$job": options.job}
    values |= dict.fromkeys(("$instance", "$process", "$loop"), ".+")
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "panels.js"
        modules = options.modules.resolve() / "node_modules"
        subprocess.run(
            [
                modules / ".bin/esbuild",
                HERE / "panels.jsx",
                "--bundle",
                "--minify",
                f"--outfile={script}",
                "--format=iife",
                "--jsx=transform",
                f"--alias:react-custom-scrollbars-2={HERE / 'scrollbars.jsx'}",
                "--loader:.svg=dataurl",
                "--loader:.woff2=dataurl",
                "--loader:.ttf=dataurl",
                "--log-level=error",
                '--define:process.env.NODE_ENV="production"',
                "--define:process.env.JEST_WORKER_ID=undefined",
            ],
            check=True,
            env={"NODE_PATH": str(modules), "PATH": "/usr/bin:/bin"},
        )
        for path in sorted((REPOSITORY / "dashboards" / "grafana").glob("*.json")):
            if options.only and path.stem not in options.only:
                continue
            board, data, empty = json.loads(path.read_text()), {}, []
            for panel in board["panels"]:
                answers = []
                for target in panel.get("targets", ()):
                    query = target["expr"]
                    for name in sorted(values, key=len, reverse=True):
                        query = query.replace(name, values[name])
                    answers.append(
                        ask(options.server, "query", query=query, time=end)
                        if target["instant"]
                        else ask(options.server, "query_range", query=query, start=start, end=end, step=step)
                    )
                data[panel["id"]] = answers
                if panel["type"] != "row" and not any(answers):
                    empty.append(panel["title"])
            height = max((p["gridPos"]["y"] + p["gridPos"]["h"]) * 38 for p in board["panels"]) + 80
            text = json.dumps(data)
            for pair in options.say:
                text = text.replace(*pair.split("=", 1))
            data = json.loads(text)
            given = {"DASHBOARD": board, "DATA": data, "RANGE": [start, end], "STEP": step, "WIDTH": options.width}
            page = Path(folder) / "page.html"
            page.write_text(
                '<!doctype html><meta charset="utf-8"><link rel="stylesheet" href="panels.css">'
                # The last column is cut off by the room that Grafana's table keeps for a scroll bar.
                '<style>[role="table"], [role="table"] > div, '
                '[role="table"] [role="row"] {overflow: visible !important}</style>'
                '<body><div id="root"></div><script>'
                + "".join(f"window.{key}={json.dumps(value)};".replace("</", "<\\/") for key, value in given.items())
                + '</script><script src="panels.js"></script>'
            )
            picture = options.out / f"{path.stem}.png"
            done = subprocess.run(
                [
                    "chromium",
                    "--headless",
                    "--no-sandbox",
                    "--disable-gpu",
                    "--hide-scrollbars",
                    "--allow-file-access-from-files",
                    "--enable-logging=stderr",
                    f"--window-size={options.width + 32},{height}",
                    f"--user-data-dir={folder}/profile",
                    "--virtual-time-budget=8000",
                    f"--screenshot={picture}",
                    page.as_uri(),
                ],
                stderr=subprocess.PIPE,
                text=True,
                timeout=120,
            )
            for line in done.stderr.splitlines():
                if "CONSOLE" in line:
                    print(line[:600], file=sys.stderr)
            print(picture, f"empty: {', '.join(empty)}" if empty else "no panel empty")


if __name__ == "__main__":
    main()
