"""What Prometheus and Alertmanager answer: their HTTP interfaces, read only."""
