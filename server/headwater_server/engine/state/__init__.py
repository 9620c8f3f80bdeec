"""The state of the database at any commit: memtables in memory above the files.

`layers.State` lays them on each other; the other modules are the layers and their caches. Comes in:
what answers "what does this key or stream hold at this commit?", without rules and transactions.
"""
