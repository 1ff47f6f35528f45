"""What can go wrong in the coordinator: what a caller is told, and what the operator is told."""

from typing import ClassVar

from leveret_broker.messages import RefusalCode


class CoordinatorError(Exception):
    """Root of everything that this package raises."""


# -- refusals: the text goes to the caller --------------------------------------------------------


class RequestRefused(CoordinatorError):
    """A request that can't be met. Its text says what happened and what to do."""

    code: ClassVar[RefusalCode]


class Unidentified(RequestRefused):
    """An identifier that means nothing here, or more than one thing."""

    code: ClassVar[RefusalCode] = "unidentified"


class NotDeployed(RequestRefused):
    """A definition in the caller's code that no worker has ever registered."""

    code: ClassVar[RefusalCode] = "not-deployed"


class Conflict(RequestRefused):
    """A registration that contradicts what the project has already."""

    code: ClassVar[RefusalCode] = "conflict"


class Invalid(RequestRefused):
    """A request whose contents can't be right, whatever the catalog holds."""

    code: ClassVar[RefusalCode] = "invalid"


class UnknownRun(RequestRefused):
    """No run of this id was ever accepted."""

    code: ClassVar[RefusalCode] = "unknown-run"


class KeyTaken(RequestRefused):
    """A key that names a run with other arguments already."""

    code: ClassVar[RefusalCode] = "key-conflict"


class WrongState(RequestRefused):
    """The run is in a state in which this can't be done to it."""

    code: ClassVar[RefusalCode] = "state"


class Unready(RequestRefused):
    """A submission whose inputs are not here yet, or not those of its round."""

    code: ClassVar[RefusalCode] = "unready"


# -- states ---------------------------------------------------------------------------------------


class NoTransition(CoordinatorError):
    """The table of run states has no entry for this event in this state."""


# -- the catalog ----------------------------------------------------------------------------------


class CatalogError(CoordinatorError):
    """The catalog can't be used. The text says why and what to do."""


class CatalogTooNew(CatalogError):
    """The catalog was written by a newer leveret, whose tables this one doesn't know."""


class NotACatalog(CatalogError):
    """The file holds something else; nothing in it was changed."""


class CatalogInUse(CatalogError):
    """Another coordinator holds the catalog. The text names its process and host."""


class AnotherCoordinator(CatalogError):
    """Another coordinator serves at this broker, with a catalog of its own.

    Each would get half of the messages and know half of the runs. A second one on the same catalog
    is met by `CatalogInUse`.
    """


class CatalogUnavailable(CatalogError):
    """The database can't be read or written now: disk full, file gone, no permission."""


class CatalogConflict(CatalogError):
    """A conditional statement met another row than the one decided upon; nothing was written."""
