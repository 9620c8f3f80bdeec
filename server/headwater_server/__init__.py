"""The server of Headwater. cli -> net -> engine -> storage, and trio in net and cli alone."""

# It decides which form of the modules below is imported (headwater_protocol/compiled.py).
import headwater_protocol as headwater_protocol
