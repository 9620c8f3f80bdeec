"""The client of NATS: nats-py in a thread with an event loop of its own."""
