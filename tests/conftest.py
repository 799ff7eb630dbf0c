"""How property tests draw their examples, and how many threads a process under test has.

CI must not fail by the luck of a draw on a commit that changed nothing, so the examples of `make test`
follow from the tests themselves. `make fuzz` draws fresh ones, many of them: that is where new bugs are found.
"""

import os

from hypothesis import HealthCheck, settings

# Before anything loads numpy, here or in a child: a pool of threads in each of many short processes only costs.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ["LC_ALL"] = "C.UTF-8"  # tests read English lines, whatever the language of who runs them

_CALM = (HealthCheck.too_slow,)  # a busy machine is no fault of the test

settings.register_profile("fixed", derandomize=True, database=None, deadline=None, suppress_health_check=_CALM)
settings.register_profile(
    "fuzz", max_examples=2000, deadline=None, print_blob=True, suppress_health_check=_CALM, derandomize=False
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))
