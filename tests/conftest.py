"""Settings of the whole test suite: hypothesis never fails a test for a slow machine, nor by chance in CI."""

import os

from hypothesis import HealthCheck, settings

patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("calibrant", patient)
#: `.ci/run`: the same examples each time, and fewer of them, since a machine of 2 cores runs them for each commit.
settings.register_profile("ci", patient, derandomize=True, max_examples=25)
#: `scripts/soak`: more examples, and none that an earlier round left, so that a seed says all.
settings.register_profile("soak", patient, max_examples=500, database=None)
settings.load_profile("ci" if os.environ.get("CI") else "calibrant")
