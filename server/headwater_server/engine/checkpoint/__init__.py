"""Checkpoints: write the memtable to the files, and collect garbage.

`schedule` decides when, `checkpoint` has the steps, and the writers fill the state store. Code
belongs here if it writes stored state while the database runs.
"""
