"""Commands for several nodes with one database."""
