"""Transport: bytes between the client and a server, on trio, asyncio and plain sockets.

This room has everything that knows sockets, event loops or threads: addresses, one connection
and its handshake, and the channel that replaces a lost connection. It knows requests and
answers; what they mean is for the rooms above it.
"""
