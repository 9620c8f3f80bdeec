"""The engine: transactions, versions and events over storage. Synchronous, deterministic."""
