"""Commands that run code of an application, and compare what it does: handlers and snapshots."""
