"""The file system, the data directory, and what is done with whole files.

Comes in: what knows paths, descriptors and syncs, but no format of ours.
"""
