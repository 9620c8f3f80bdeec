"""Repair: makes a damaged data directory usable, and reports what was lost.

`repair` handles the findings of a check; each other module repairs one part of the directory.
"""
