"""The server's commands, and what `headwater user` does to a data directory."""
