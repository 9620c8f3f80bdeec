"""Settings of hypothesis for the tests of the protocol."""

from hypothesis import settings

# No deadline: it would test how busy the machine is. A failure prints how to repeat it.
settings.register_profile("protocol", deadline=None, print_blob=True)
settings.load_profile("protocol")
