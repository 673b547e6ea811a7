"""What watches the product: rules for Prometheus, dashboards for Grafana."""
