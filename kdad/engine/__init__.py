"""How a job runs: command line, building, fit, test, run folder, checkpoint."""
