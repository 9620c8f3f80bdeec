"""Fuzz: what no client would send and no disk should hold, by the million, from printed seeds.

    mutations.py    ways to spoil bytes, and messages before they are bytes
    messages.py     frames against a whole session with its engine, in memory
    live.py         the same frames against a server process, with others at work on it
    files.py        damaged data directories, in memory: check, recovery, every read
    store_files.py  the same for the files of RocksDB, on disk

    make fuzz                                              all of it
    python -m tests.fuzz.messages --seed 4711 --count 1000 one batch again
    python -m tests.fuzz.files --seed 4711 --count 1       one damage again

What must hold is the same everywhere: bad input gets an error of ours that says what and where,
memory stays bounded, and what is accepted is what was meant.
"""
