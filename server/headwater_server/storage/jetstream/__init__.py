"""The log in a stream of NATS JetStream: its interface to NATS, its settings, and the log itself.

Nothing here opens a socket: `service` is the interface to a client of NATS, which
net/jetstream implements with nats-py and tests with a simulated server.
"""
