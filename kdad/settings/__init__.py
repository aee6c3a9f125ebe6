"""What a configuration holds, what each of its keys means, and what is refused."""
