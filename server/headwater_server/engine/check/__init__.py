"""Check: reads every byte of a data directory that no server runs on, and changes nothing.

`check` goes through the parts; each other module checks one of them and yields findings.
"""
