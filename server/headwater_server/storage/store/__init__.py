"""The state store: sorted keys in families, written in batches.

The engine uses `interface` only. The other modules implement it on RocksDB.
"""
