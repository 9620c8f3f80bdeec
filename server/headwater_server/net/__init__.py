"""The network side: sessions, what drives them, and the tasks around the engine. It awaits."""
