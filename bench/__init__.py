"""Benchmarks. Each module prints a table, and some also write JSON."""
