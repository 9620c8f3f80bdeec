"""The archive: the log is copied to it, kept for it, and read back from it up to a commit or time.

`storage/archive` has the bytes. What is done with a restored database is in `engine/restore_to.py`.
"""
