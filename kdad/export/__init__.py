"""`kdad export`: a trained detector as one file."""
