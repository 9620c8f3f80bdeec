"""How many files and connections the process may have open.

Each connection is a descriptor, and so is each file of the data directory that is in use. Most
systems start a process with a soft limit of 1,024, for the sake of programs that use select(),
and let it ask for more. We do not use select(), so we ask.
"""

import resource

WANTED = 65_536
"""Descriptors that we ask for: more than connections and files can be. Not the hard limit, which
may be a billion, and then costs time wherever descriptors are gone through."""


def raise_limit(wanted: int = WANTED) -> int:
    """Raise the soft limit of open files as far as *wanted*, if it is lower; return what it is.

    It is never lowered, and never an error: a server with fewer descriptors is a server.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted if soft == resource.RLIM_INFINITY else soft
    reachable = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (reachable, hard))
    except (OSError, ValueError):
        # macOS refuses more than kern.maxfilesperproc, whatever the hard limit says.
        return soft
    return reachable
