"""Simulation: a whole database, its clients, disk and network, in one process and from a seed.

    clients  ----->  network  ----->  machine  ----->  disk
    workloads.py     network.py       machine.py       disk.py
       |             cut, delayed,    crashes and      loses power, tears,
       |             silent           comes back       fails, fills, rots
       v
    history.py  what every client asked, saw and was told      --->  checkers at the end
                                                                     replay.py, elle.py

After FoundationDB's simulation and TigerBeetle's VOPR: the code that runs is the product's own,
server and client, and only what touches the world is replaced. All chance comes from the seed
(determinism.py), and time is trio's mock clock, which jumps to whatever is due next. So a world
of minutes takes a second, and one that fails can be had again:

    make simulate SEEDS=10000 FROM=1              many worlds, in two processes
    python -m tests.simulation.run --seed 4711    one world, with its log

Disk, store, clocks, locks and sockets go into the server as arguments, so worlds run the compiled
modules as well as their source. Only planted defects (mutants.py) need the source.

The checkers are apart from the worlds, and know nothing of the product's code: they judge a
history. docs/reliability.md says what is covered, what was found, and what is not covered.
"""
