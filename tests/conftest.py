"""Settings of the whole test suite: hypothesis never fails a test for a slow machine."""

from hypothesis import settings

settings.register_profile("calibrant", deadline=None)
settings.load_profile("calibrant")
