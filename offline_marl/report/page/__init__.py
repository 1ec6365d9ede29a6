"""Self-contained HTML page of a report: no network, no framework, readable without its script."""
