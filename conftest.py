"""For every test, those of the plugins too: how hypothesis looks for examples.

A property that fails is told with the example that failed. Making that example smaller can take minutes, which a whole
run does not spend: run the one test by itself (``pytest -k NAME``) to have it made small.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, Phase, settings

# Time is not what a property is about: the machine may be busy, and a first example imports modules.
settings.register_profile("house", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile(
    "whole-run", settings.get_profile("house"), phases=[Phase.explicit, Phase.reuse, Phase.generate]
)
settings.load_profile("whole-run" if os.environ.get("KAT_TEST_RUN") else "house")
