"""Retention: rules that hide events, the writes that set them, and the rewriting of the files.

Code belongs here if it decides which events can still be read, or removes the others from disk.
"""
