"""How hard property tests try: the Hypothesis profiles `ci`, `dev` and `long`."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

__all__ = ["DEFAULT_EXAMPLES", "LONG_FACTOR", "PROFILES", "load_profile", "scaled"]

DEFAULT_EXAMPLES = 100
"""How many examples a property tries under `dev` and `ci`."""

LONG_FACTOR = 20
PROFILES = ("ci", "dev", "long")


def load_profile(name: str = "dev") -> None:
    """Make a profile Hypothesis's default.

    `dev`: 100 examples. `ci`: the same, and a failure prints the blob that reproduces it. `long`: twenty times
    the examples. None has a deadline: machines are shared, so time says nothing about the code under test.
    """
    common = settings(
        # Hypothesis has a profile of its own for CI and starts from it there: say what ours differ in.
        settings.get_profile("default"),
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
        derandomize=False,
    )
    settings.register_profile("dev", common, max_examples=DEFAULT_EXAMPLES)
    settings.register_profile("ci", common, max_examples=DEFAULT_EXAMPLES, print_blob=True)
    settings.register_profile("long", common, max_examples=DEFAULT_EXAMPLES * LONG_FACTOR, print_blob=True)
    if name not in PROFILES:
        raise ValueError(f"no profile {name!r}: give one of {', '.join(PROFILES)}")
    settings.load_profile(name)


def scaled(examples: int) -> int:
    """The number of examples that stands for `examples` under the chosen profile, at least one."""
    return max(1, examples * settings().max_examples // DEFAULT_EXAMPLES)
