"""Repair: makes a damaged data directory usable, and says what was lost.

`repair` goes through the findings of a check; each other module mends one part of the directory.
"""
