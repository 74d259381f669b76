"""Metrics: counting what a manager sees (`recorder`), and showing an install's figures to Prometheus (`exposition`, `server`)."""
