"""The property-based test kit for projections: brute-force search, a comparison with the history, contracts.

Part of `asof[testing]`. docs/reference/testing.md.
"""

from projections.testing.consistent import assert_consistent
from projections.testing.contract import ProjectionContract
from projections.testing.contract_search import SearchContract
from projections.testing.search import Found, brute_force_search, score_of

__all__ = [
    "Found",
    "ProjectionContract",
    "SearchContract",
    "assert_consistent",
    "brute_force_search",
    "score_of",
]
