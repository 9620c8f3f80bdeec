"""Settings of hypothesis for the tests of the protocol."""

from hypothesis import settings

# No deadline, because the machine may be busy. A failure prints how to reproduce it.
settings.register_profile("protocol", deadline=None, print_blob=True)
settings.load_profile("protocol")
