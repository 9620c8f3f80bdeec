"""A session: one connection, bytes in and bytes out.

Comes in: who the peer is, what it may hold in memory, and when its answers may go out.
"""
