"""Looking into a database: an event by its id, histories, commits, snapshots.

Code belongs here if it answers a question that people ask about what happened, and not one that an
application asks to do its work. It reads and changes nothing.
"""
