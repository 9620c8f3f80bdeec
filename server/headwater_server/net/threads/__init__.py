"""The worker thread, and which blocking calls are made in it."""
