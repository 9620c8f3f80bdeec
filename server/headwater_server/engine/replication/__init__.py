"""One log on several nodes: applying it, the right to write it, and the files of a new follower.

What nodes say to each other belongs to net/replication.
"""
