"""The limit of open files and connections of the process.

Each connection needs a descriptor, and so does each open file of the data directory. Most systems
start a process with a soft limit of 1,024, for programs that use select(), and let it raise the
limit. We do not use select(), so we raise it.
"""

import resource

WANTED = 65_536
"""Descriptors that we ask for: more than connections and files can use. Not the hard limit, which
may be a billion; loops over all possible descriptors would then be slow."""


def raise_limit(wanted: int = WANTED) -> int:
    """Raise the soft limit of open files to *wanted*, if it is lower; return the limit.

    It never lowers the limit, and never fails: a server can run with fewer descriptors.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted if soft == resource.RLIM_INFINITY else soft
    reachable = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (reachable, hard))
    except (OSError, ValueError):
        # macOS refuses more than kern.maxfilesperproc, even below the hard limit.
        return soft
    return reachable
