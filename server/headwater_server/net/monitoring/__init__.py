"""Monitoring: what a running server counts and measures, and the HTTP pages that tell it.

Nothing here runs unless monitoring is switched on. What is counted in any case, because it is rare,
is counted where it happens.
"""
