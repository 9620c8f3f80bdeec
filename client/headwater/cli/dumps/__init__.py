"""The commands `dump` and `load`: the form of a dump's lines, and how they are written back."""
