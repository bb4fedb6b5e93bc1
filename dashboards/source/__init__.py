"""What the Grafana dashboards are generated from; `python -m traceloop.dashboards.source` writes them anew.

Edit here, never in the JSON: docs/decisions/0004-dashboards-from-code.md says why.
"""
