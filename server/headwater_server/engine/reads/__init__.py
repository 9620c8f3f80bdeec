"""Reads at a read view: keys, ranges, streams, searches, changes and listings.

Comes in: whatever answers a question about the state at one commit and changes nothing.
"""
