"""The file system, the data directory, and operations on whole files.

These modules know paths, descriptors and syncs, but no file format except that of FORMAT.
"""
