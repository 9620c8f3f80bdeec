"""Reads at a read view: keys, ranges, streams, searches, changes and listings.

Code belongs here if it answers a question about the state at one commit and changes nothing.
"""
