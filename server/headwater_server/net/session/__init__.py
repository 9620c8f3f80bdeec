"""A session: one connection, bytes in and bytes out.

This room also has authentication, the memory budget, and the answers that wait for a sync.
"""
