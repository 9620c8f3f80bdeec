"""Locks between processes, with a time to live.

Only what a lock needs: its place in the line, its renewal, and the block that holds it. Locks are
keys of the database, so nothing here is known to the server.
"""
