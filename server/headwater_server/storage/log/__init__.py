"""Append-only logs of checksummed entries, cut into segments.

The write-ahead log and the event log are built on this.
"""
