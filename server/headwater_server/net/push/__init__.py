"""What the server sends without being asked for each item: feeds and group deliveries.

Comes in: sources of feeds, and the state machine that they share.
"""
