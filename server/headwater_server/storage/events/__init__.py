"""The event log: every event at its position.

Comes in: what reads, appends, rewrites or repairs segments of events.
"""
