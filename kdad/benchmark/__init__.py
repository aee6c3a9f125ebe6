"""What a detector costs: time in several runtimes, memory, operations, parameters."""
