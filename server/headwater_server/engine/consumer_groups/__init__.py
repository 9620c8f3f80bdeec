"""Consumer groups: which member gets which event, and what is stored about it."""
