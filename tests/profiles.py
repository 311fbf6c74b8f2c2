"""How many examples the property tests try, by the environment variable ASOF_PROFILE.

`dev` (the default), `ci` (prints the blob that reproduces a failure) and `long` (twenty times the examples).
A test that needs more or fewer examples than the default says `@settings(max_examples=scaled(30))`, so that
`long` still multiplies it.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

DEFAULT_EXAMPLES = 100
LONG_FACTOR = 20


def load() -> None:
    """Register the profiles and make the one that ASOF_PROFILE names the default."""
    common = settings(
        # Hypothesis has a profile of its own for CI and starts from it there: say what ours differ in.
        settings.get_profile("default"),
        # Machines are shared and tests run side by side: time says nothing about the code under test.
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
        derandomize=False,
    )
    settings.register_profile("dev", common, max_examples=DEFAULT_EXAMPLES)
    settings.register_profile("ci", common, max_examples=DEFAULT_EXAMPLES, print_blob=True)
    settings.register_profile("long", common, max_examples=DEFAULT_EXAMPLES * LONG_FACTOR, print_blob=True)
    settings.load_profile(os.environ.get("ASOF_PROFILE") or "dev")


def scaled(examples: int) -> int:
    """The number of examples that stands for `examples` under the chosen profile, at least one."""
    return max(1, examples * settings().max_examples // DEFAULT_EXAMPLES)
