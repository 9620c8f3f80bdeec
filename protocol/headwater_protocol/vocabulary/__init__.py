"""The operations by subject: arguments, answers and meaning of each, without behaviour.

headwater_protocol.operations joins them into the one table that client and server use. A module
here imports only fields, limits and grants. Keep an operation in the module of its subject.
`causation` has no operations: it has the tags that clients give to events.
"""
