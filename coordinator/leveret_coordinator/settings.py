"""What may be tuned about a coordinator."""

from dataclasses import dataclass

from leveret_coordinator.recoverer import RecoverySettings


@dataclass(frozen=True, kw_only=True, slots=True)
class CoordinatorSettings:
    """What may be tuned. Times are seconds."""

    worker_silent_after: float = 20.0
    """A worker whose heartbeat is older counts as dead."""
    worker_gone_after: float = 3.0
    """So does one that seems to have lost what it executes, when it has not been connected for so
    long."""
    hesitate: float = 0.5
    """How long a worker waits that is given what another one may be about to start."""
    look_every: float = 5.0
    """How often what may have gone wrong unheard is looked for."""
    vanished_after: float = 15.0
    """How long an invocation must have been in its queue to be missed there."""
    failed_timer_after: float = 60.0
    """When a timer that could not be dealt with is tried again."""
    deaf_after: float = 10.0
    """How long a work queue may take nothing, while the broker takes other messages, until it is
    made anew."""
    stuck_after: float = 30.0
    """How long a run may wait for its invocation to be published until that is tried again."""
    largest_batch: int = 500
    """Messages in one transaction."""
    largest_batch_bytes: int = 2 * 1024 * 1024
    """Bytes of messages in one transaction, unless a single message is larger."""
    prefetch: int = 1000
    """Messages of a queue that the broker hands out ahead."""
    confirm_after: float = 0.05
    """How long confirmations wait for a batch to be written with."""
    retry_first: float = 0.1
    retry_longest: float = 5.0
    """Delays before trying again what failed; they double from the first to the longest."""
    stop_within: float = 5.0
    """How long a batch under way may take to end when the service stops; then it is left as after
    a crash, which loses nothing."""
    predecessor_leaves_within: float = 10.0
    """How long a start waits for the broker to notice that a killed coordinator is gone."""
    standby: bool = False
    """A start waits for another coordinator to let go of the catalog, in place of failing."""
    look_for_catalog_every: float = 0.25
    """How often it looks meanwhile."""
    payload_store: str | None = None
    """The URL of the store whose unreferred payloads are removed; none is cleaned without one."""
    payload_grace: float = 3600.0
    """How long a stored payload may be referred to by nothing: it may be on its way."""
    clean_every: float = 900.0
    """How often the payload store is gone through."""
    cleans_at_start: bool = False
    """The store is gone through before anybody is served, too: nobody else can have stored
    anything that is on its way."""
    keep: float | None = None
    """How long runs are kept after they have ended; for ever if not set."""
    prune_every: float = 900.0
    """How often those that were kept long enough are looked for."""
    page: int = 200
    """Runs read at a time when the catalog's outbox is published again."""

    @property
    def recovery(self) -> RecoverySettings:
        """The part of it that is about what went wrong unheard."""
        return RecoverySettings(
            worker_silent_after=self.worker_silent_after,
            worker_gone_after=self.worker_gone_after,
            look_every=self.look_every,
            vanished_after=self.vanished_after,
        )
