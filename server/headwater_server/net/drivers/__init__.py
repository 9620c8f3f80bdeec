"""Drivers: from sockets to sessions and back.

The modules here listen, accept, read and write. The session knows what the bytes mean.
"""
