"""Torture: the real server, as a process on a real disk, under bad conditions.

faulty_server.py     the server with a file system that can kill it or be slow
failpoints.py        the named points at which the server is killed
test_failpoints.py   kills at each point: acknowledged commits survive, no commit is partial
test_hard_times.py   stopped, full disk, no descriptors, thousands of idle connections
run.py               make torture: thousands of worlds and hundreds of kills, with a report
"""
