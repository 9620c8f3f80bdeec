"""Replication: several nodes with the same log, of which one leads and the others follow.

The leader's side is in `shipping` (entries) and `copies` (files), the follower's in `following` and
`bootstrap`; `upstream` is the connection from the one to the other.
"""
