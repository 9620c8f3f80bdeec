"""Check: reads every byte of a data directory without a server, and changes nothing.

`check` runs all checks; each other module checks one part and reports findings.
"""
