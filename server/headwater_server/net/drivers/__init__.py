"""Drivers: from sockets to sessions and back.

Comes in: what listens, reads and writes connections. What the bytes mean is the session's business.
"""
