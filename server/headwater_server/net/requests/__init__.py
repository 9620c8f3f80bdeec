"""Requests: one function for each operation, from its arguments to the frame of its answer."""
