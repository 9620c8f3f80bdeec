"""Projections: read models that follow the events.

They are built from the rooms below (feeds, transactions) and store what they know in ordinary
keys. Nothing here talks to a socket.
"""
