"""Files: write-ahead log, event log, commit log, state store. Synchronous; no clock of its own."""
