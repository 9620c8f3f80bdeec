"""The blocking face: the same database without an event loop.

Each class here wraps one class of the asynchronous face. No logic belongs here.
"""
