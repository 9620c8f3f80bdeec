"""`headwater mcp`: read-only tools for agents and models, over the Model Context Protocol.

    tools.py      what can be asked: functions from plain arguments to plain JSON, bounded in size
    server.py     the same functions as tools of a server of the package `mcp`
    command.py    the command, which speaks on standard input and output

The user of the connection decides what can be read. No tool writes.
"""
