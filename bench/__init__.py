"""Measurements: each module prints a table, and writes what it found as JSON if it is asked to."""
