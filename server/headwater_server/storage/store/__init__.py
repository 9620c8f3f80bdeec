"""The state store: sorted keys in families, written in batches.

The engine knows `interface` alone. Comes in: what implements it, and what is known of RocksDB.
"""
