"""Runs read back from disk as one table, compared, averaged and put into words; reports and figures are made of it."""
