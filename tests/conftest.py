"""Settings of all tests."""

from hypothesis import settings

# examples are not timed: a machine that does other work besides must not fail a test
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")
