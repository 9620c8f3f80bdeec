"""The write-ahead log: its interface, its entries, and the log in files.

The engine uses `interface` only.
"""
