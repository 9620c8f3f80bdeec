"""The format: records, events and keys as bytes, and what they mean. No state.

What is written here is read again after years, so a change here is a change of docs/format.md.
Only layouts and their encoders come in: nothing that reads the database.
"""
