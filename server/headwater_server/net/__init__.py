"""The network side: sessions, their drivers, and the tasks around the engine. Only it awaits."""
