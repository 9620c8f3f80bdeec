"""Torture: the real server, as a process on a real disk, in hard times.

faulty_server.py     the server, with a file system that kills it or is slow, as told
failpoints.py        where it is killed: at each step that matters, by name
test_failpoints.py   at each of them; what was acknowledged is there, nothing by halves
test_hard_times.py   stopped, out of room, out of descriptors, among thousands of idlers
run.py               make torture: thousands of worlds and hundreds of kills, with a report
"""
