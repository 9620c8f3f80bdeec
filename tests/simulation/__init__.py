"""Simulation: a database with its clients, disk and network, in one process, from one seed.

    clients  ----->  network  ----->  machine  ----->  disk
    workloads.py     network.py       machine.py       disk.py
       |             cuts, delays,    crashes and      loses power, tears writes,
       |             goes silent      restarts         fails, fills, flips bits
       v
    history.py  every request and answer of the clients       --->  checkers at the end
                                                                    replay.py, elle.py

One simulated run is called a world. The idea is that of FoundationDB's simulation and of
TigerBeetle's VOPR: server and client are the product's own code, and only their environment is
simulated. All randomness comes from the seed (determinism.py). Time is trio's mock clock, which
jumps to the next deadline. So a world of minutes takes a second, and a failure can be reproduced:

    make simulate SEEDS=10000 FROM=1              many worlds, in two processes
    python -m tests.simulation.run --seed 4711    one world, with its trace

Disk, store, clocks, locks and sockets are arguments of the server, so worlds can run the compiled
modules or their sources. Only planted defects (mutants.py) need the sources.

The checkers examine the history only, and use no code of the product. docs/reliability.md says
what is covered, what was found, and what is not covered.
"""
