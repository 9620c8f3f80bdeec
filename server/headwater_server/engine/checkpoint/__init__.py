"""Checkpoints: the memtable goes to the files, and garbage is collected on the way.

`schedule` says when, `checkpoint` in which steps; the writers fill the state store. Comes in: what
writes stored state while the database runs.
"""
