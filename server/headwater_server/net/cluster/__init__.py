"""A node of a cluster: follows the stream, claims it when nobody leads, and leads.

`election` says when to claim, `nodes` knows the other nodes, `cluster` is the task, `starting`
opens the stream and the log.
"""
