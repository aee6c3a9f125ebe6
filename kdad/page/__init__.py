"""All runs as one HTML page that needs no network: `python -m kdad.report outputs/study --html report.html`."""
