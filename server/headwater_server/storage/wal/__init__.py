"""The write-ahead log: its interface, its entries, and the log in files.

The engine knows `interface` alone. Comes in: what makes a commit durable, and the check of it.
"""
