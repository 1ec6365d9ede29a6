"""One self-contained HTML page that says what the runs say: no network, no framework, readable without its script."""
