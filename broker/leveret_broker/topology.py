"""Which queues there are: pure functions, so that whoever declares one declares the same."""

from leveret_broker.transport import Exchange, Queue

CONTROL = "leveret.control"
"""The fan-out exchange by which the coordinator reaches every worker of all projects."""

_PROJECT = "leveret.project."

DEAD = Queue(name="leveret.dead", replicated=True)
"""What nobody could deal with, each message with its reason in the header `leveret-reason`."""

REQUESTS = Queue(name="leveret.requests", replicated=True, dead_letter=DEAD.name)
"""To the coordinator, from callers and workers."""

OUTCOMES = Queue(name="leveret.outcomes", replicated=True, dead_letter=DEAD.name)
"""To the coordinator, from workers: how runs ended."""

REPLY_QUEUE_EXPIRES = 30 * 60.0
"""Seconds for which a caller may be gone before the broker drops its replies."""

CONTROL_QUEUE_EXPIRES = 5 * 60.0
"""Seconds for which a worker may be gone before the broker drops its control messages."""

HEARTBEAT_EVERY = 5.0
"""Seconds between two heartbeats of a worker. Who listens to them has to allow for one that comes
late, whatever else it is set to."""

MARKER_HEADER = "leveret-marker"
"""On what the coordinator tells itself through its own queues, to see how far it has heard."""

REASON_HEADER = "leveret-reason"
ORIGIN_HEADER = "leveret-origin"


def work_queue_name(project: str, name: str, version: str) -> str:
    """`project:name:version`, where the invocations of one definition wait."""
    return f"{project}:{name}:{version}"


def work_queue(name: str) -> Queue:
    """The queue of one definition, by the name that `work_queue_name` gives."""
    return Queue(name=name, replicated=True, dead_letter=DEAD.name)


def reply_queue_name(session: str) -> str:
    return f"replies:{session}"


def reply_queue(session: str) -> Queue:
    """Where one caller's answers arrive. It outlives a lost connection, but not for ever."""
    return Queue(name=reply_queue_name(session), expires=REPLY_QUEUE_EXPIRES)


def control_queue(worker: str) -> Queue:
    """One worker's copy of the control messages; it goes away some time after the worker.

    Not exclusive: when a connection is lost without the broker's notice, the broker keeps an
    exclusive queue locked until its heartbeats fail, and the worker could not take it back.
    """
    return Queue(
        name=f"control:{worker}",
        expires=CONTROL_QUEUE_EXPIRES,
        fanouts=(CONTROL, control_exchange(owner(worker))),
    )


# -- projects -------------------------------------------------------------------------------------


def owned(project: str, id: str) -> str:
    """The id of a session or a worker of a project: it shows whose queues are whose."""
    return f"{project}:{id}"


def owner(id: str) -> str | None:
    """The project that a session or a worker belongs to, `None` for a session of no project."""
    project, colon, _ = id.partition(":")
    return project if colon else None


def control_exchange(project: str | None) -> str:
    """The fan-out exchange by which the coordinator reaches every worker of a project."""
    return CONTROL if project is None else f"{CONTROL}.{project}"


def project_exchange(project: str) -> str:
    """What people and workers of a project publish through that may reach nothing else."""
    return _PROJECT + project


def project_of(exchange: str) -> str | None:
    """The project whose people may publish through an exchange; `None` if it is nobody's."""
    return exchange.removeprefix(_PROJECT) if exchange.startswith(_PROJECT) else None


def exchanges(project: str) -> tuple[Exchange, ...]:
    """Those that a project needs whose people may reach nothing else. They need the coordinator's
    queues."""
    return (
        Exchange(name=project_exchange(project), queues=(REQUESTS.name, OUTCOMES.name, DEAD.name)),
        Exchange(name=CONTROL, is_fanout=True),
        Exchange(name=control_exchange(project), is_fanout=True),
    )
