"""Append-only logs of checksummed entries, cut into segments.

The write-ahead log and the event log are both built on this. Comes in: what holds for any log.
"""
