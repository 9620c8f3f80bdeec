"""Aggregates: the state that follows from the events of one stream.

Repositories load, decide and append; snapshots shorten the replay and are checked against it.
"""
