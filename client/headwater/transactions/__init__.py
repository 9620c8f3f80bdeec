"""Transactions: everything that changes a database.

Writes and the checks on them, transactions, batches of one round trip, retention, and `run`,
which repeats a function until it has committed exactly once.
"""
