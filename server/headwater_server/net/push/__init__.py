"""Pushes: feeds and group deliveries, which the server sends without a request for each item.

The modules here are the sources of feeds, their common state machine, and group deliveries.
"""
