"""Reads: everything that can be asked of a database without changing it.

Queries, pages, listings, and reads of the past. A read here does not know who asks: it is given
a function that sends the request, so it works in a transaction and outside of one.
"""
