"""The commit log: one record of fixed size for each commit.

Comes in: what reads, appends or repairs these records.
"""
