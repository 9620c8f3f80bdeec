"""The state of the database at any commit: memtables in memory above the files.

`layers.State` combines them; the other modules are the layers and their caches. Code belongs here
if it answers "what does this key or stream hold at this commit?", without rules or transactions.
"""
