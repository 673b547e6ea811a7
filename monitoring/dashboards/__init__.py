"""Grafana's dashboards, from Python: `make dashboards` writes them to `monitoring/grafana`."""
