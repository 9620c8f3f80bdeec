"""The backups in a directory: what there is, and what may be removed.

How a backup is made is in `engine/backup.py`, which the running server uses.
"""
