"""Retention: rules that hide events, the writes that set them, and the rewriting of the files.

Comes in: what decides which events can still be read, and what takes the others from the disk.
"""
