"""Nodes: several servers with the same database, used as one.

Which node leads, how far each is, where a read goes, and what this client has already seen. Only
requests and answers pass here; what they mean is for the rooms above.
"""
