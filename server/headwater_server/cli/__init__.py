"""The server's commands, and `headwater user` on a data directory."""
