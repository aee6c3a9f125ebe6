"""One file per paper: its equations and its detector."""
