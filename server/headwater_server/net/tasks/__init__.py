"""The tasks beside the sessions: group commit, checkpoints, rewriting, backups, maintenance.

Each of these tasks runs as long as the server.
"""
