"""The commit log: one record of fixed size for each commit.

The modules here read, append and repair these records.
"""
