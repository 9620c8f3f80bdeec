"""What is in a dump: the form of its lines, and how what they describe is written back.

The commands `dump` and `load` are beside this room.
"""
