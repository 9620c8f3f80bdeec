"""Transactions, from begin to a sequenced commit.

A transaction collects reads and writes. Validation and evaluation turn them into a plan, which the
sequencer numbers and applies. Replaying makes the same plans from the log. Code belongs here if it
decides whether a commit may happen and what it does.
"""
