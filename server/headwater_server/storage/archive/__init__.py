"""The archive of a log: its pieces, and the directory that they are in.

These modules know bytes, names and syncs. They do not know what a record means.
"""
