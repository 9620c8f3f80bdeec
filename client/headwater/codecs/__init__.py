"""Codecs: values, event data and states as bytes, and back.

Only conversions belong here. They do no I/O, and they know the records of the client and
nothing else of it.
"""
