"""The tasks beside the sessions: group commit, checkpoints, rewriting, backups, maintenance.

Comes in: what runs on its own clock for as long as the server runs.
"""
