"""Encryption of personal data, with a key for each subject that can be destroyed.

Code belongs here if it seals or opens values, or keeps the keys of subjects. It uses the public
reads and writes only.
"""
