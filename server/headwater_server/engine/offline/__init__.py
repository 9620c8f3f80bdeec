"""Check and repair: work on the files of a directory that no server runs on."""
