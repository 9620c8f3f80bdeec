"""The format: records, events and keys as bytes, and what they mean. No state.

These bytes are read again after years, so a change here is also a change of docs/format.md. Only
layouts and their encoders belong here, nothing that reads the database.
"""
