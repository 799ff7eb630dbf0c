"""How do the property tests draw their examples?

CI must not fail by the luck of a draw on a commit that changed nothing, so the examples of `make test`
follow from the tests themselves. `make fuzz` draws fresh ones, many of them: that is where new bugs are found.
"""

import os

from hypothesis import HealthCheck, settings

_CALM = (HealthCheck.too_slow,)  # a busy machine is no fault of the test

settings.register_profile("fixed", derandomize=True, database=None, deadline=None, suppress_health_check=_CALM)
settings.register_profile(
    "fuzz", max_examples=2000, deadline=None, print_blob=True, suppress_health_check=_CALM, derandomize=False
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))
