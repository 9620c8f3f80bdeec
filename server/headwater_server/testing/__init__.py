"""Fakes of storage for tests: disk, files, state store and write-ahead log in memory.

They lose power, fill up, fail and rot on demand, reproducibly from a seed. Only tests import them.
"""
