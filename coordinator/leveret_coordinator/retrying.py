"""Which failures are tried again, and when. Pure."""

from leveret_broker.messages import Failure, RetryPolicy


def covers(policy: RetryPolicy, failure: Failure) -> bool:
    """Whether the policy speaks of this failure: by the names of its exception and that's bases."""
    kinds = {failure.type, *failure.kinds}
    if not kinds.isdisjoint(policy.unless):
        return False
    return policy.on is None or not kinds.isdisjoint(policy.on)


def delay(policy: RetryPolicy, failures: int, chance: float) -> float:
    """Seconds until the next attempt, after so many earlier failures.

    Exponential backoff: `initial`, then each `factor` times the one before, none over `cap`. Of
    each a share of `jitter` is taken by chance, so that what failed together doesn't come back
    together.
    """
    try:
        backoff = min(policy.cap, policy.initial * policy.factor**failures)
    except OverflowError:
        backoff = policy.cap
    return backoff * (1 - policy.jitter * chance)
