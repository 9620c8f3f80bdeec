"""Fuzzing: malformed frames and damaged files, from printed seeds.

    mutations.py    ways to corrupt bytes, and messages before they are encoded
    messages.py     malformed frames to a session with its engine, in memory
    live.py         the same frames to a server process that also serves another client
    files.py        damaged data directories, in memory: check, recovery, every read
    store_files.py  the same for the files of RocksDB, on disk

    make fuzz                                              everything
    python -m tests.fuzz.messages --seed 4711 --count 1000 repeats one batch
    python -m tests.fuzz.files --seed 4711 --count 1       repeats one damage

The requirements are the same everywhere: bad input gives a HeadwaterError that says what is wrong
and where, memory stays bounded, and accepted input has its intended effect.
"""
