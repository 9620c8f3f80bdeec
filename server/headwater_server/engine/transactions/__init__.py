"""Transactions, from begin to a numbered commit.

A transaction collects reads and writes, validation and evaluation make a plan of them, and the
sequencer numbers and applies it; replaying makes the same plans from the log. Comes in: what
decides whether a commit may happen and what it does.
"""
