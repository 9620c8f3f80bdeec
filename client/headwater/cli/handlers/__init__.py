"""Commands that run the handlers of an application: where they are, and comparing what they do."""
