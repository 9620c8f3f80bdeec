"""The server's commands: serve, check, repair, and what `headwater user` does to a directory."""
