"""Schedules for hypothesis, which makes a failing one small."""

from collections.abc import Sequence

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from tests.simulation.schedule import KINDS, LEAVES, SECONDS, Fault, Schedule, Sky

a_thousand = settings(
    max_examples=1000,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
    phases=(Phase.explicit, Phase.generate, Phase.shrink),
)
"""In two modules, so that the two processes of `scripts/test` share the work."""


def _branch(parts: Sequence[str], brackets: str) -> str:
    return f"{brackets[0]}{''.join(parts)}{brackets[1]}"


def _branches(parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    children = st.lists(parts, min_size=1, max_size=2)
    return st.builds(_branch, children, st.sampled_from(["()", "[]"]))


def _schedule(seed: int, tree: str, sky: Sky, faults: Sequence[Fault]) -> Schedule:
    in_order = sorted(faults, key=lambda fault: fault.turn)
    return Schedule(seed=seed, tree=tree, sky=sky, faults=tuple(in_order))


_faults = st.builds(
    Fault,
    kind=st.sampled_from(KINDS),
    turn=st.integers(0, 1200),
    seconds=st.sampled_from(SECONDS),
)


def schedules(*skies: Sky) -> st.SearchStrategy[Schedule]:
    """Programs and faults in one of these weathers."""
    return st.builds(
        _schedule,
        st.integers(0, 2**32 - 1),
        _branches(st.recursive(st.sampled_from(LEAVES), _branches, max_leaves=2)),
        st.sampled_from(skies),
        st.lists(_faults, max_size=4),
    )
