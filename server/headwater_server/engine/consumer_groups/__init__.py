"""Consumer groups: who is given which event, and what is stored of it."""
