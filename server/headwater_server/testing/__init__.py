"""Test doubles of storage: disk, files, state store and write-ahead log in memory.

They lose power, fill up, fail and rot on demand, always from a seed. Only tests import them.
"""
