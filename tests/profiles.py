"""How many examples the property tests try: the kit's own profiles, chosen by `--asof-profile` or ASOF_PROFILE.

A test that needs more or fewer examples than the default says `@settings(max_examples=scaled(30))`, so that
`long` still multiplies it.
"""

from __future__ import annotations

from eventstore.testing import scaled

__all__ = ["scaled"]
