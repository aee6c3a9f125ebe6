"""Files that outlive a process: written whole or not at all, kept for later jobs, held by one job at a time."""
