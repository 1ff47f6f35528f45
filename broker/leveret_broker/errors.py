"""What can go wrong between two processes, and in naming things."""


class BrokerError(Exception):
    """Root of everything that this package raises."""


# -- naming ---------------------------------------------------------------------------------------


class InvalidName(BrokerError, ValueError):
    """A name, version or project that can't be part of a queue's name."""


class InvalidIdentifier(BrokerError, ValueError):
    """A text that has none of the forms of an identifier."""


# -- messages -------------------------------------------------------------------------------------


class MalformedMessage(BrokerError):
    """Bytes that are no message of ours: set aside with this reason, never fatal to a service."""


# -- transports -----------------------------------------------------------------------------------


class TransportError(BrokerError):
    """A message could not be handed to the broker. Nothing is known to have been accepted."""


class TransportUnreachable(TransportError):
    """No connection could be made within the deadline. Its text never holds a password."""


class Misconfigured(TransportUnreachable):
    """What was given can't be meant, whatever the broker does: a URL that is none, settings that
    contradict, a certificate's file that can't be read."""


class TransportClosed(TransportError):
    """The transport was closed by its owner, before or while it was used."""


class Unroutable(TransportError):
    """The broker has no queue of this name, so the message went nowhere."""

    def __init__(self, queue: str) -> None:
        super().__init__(f"there is no queue named {queue!r}")
        self.queue = queue


class BrokerBlocked(TransportError):
    """The broker took no message within the deadline: out of memory or disk, or overloaded."""


class Refused(TransportError):
    """The broker does not take this message, and would not if it were sent again.

    Most often it is larger than the broker's limit. A broker that takes nothing for now raises
    `BrokerBlocked`.
    """


class Forbidden(TransportError):
    """The broker's user may not do this: a permission is missing."""


class QueueMismatch(TransportError):
    """A queue of this name exists with other properties, and the broker keeps it as it is."""


class Expired(TransportError):
    """The deadline passed without a confirmation: the message may or may not have arrived."""


# -- stored payloads ------------------------------------------------------------------------------


class MalformedReference(BrokerError):
    """Bytes that begin as a reference to a stored payload and are none."""


class StoreError(BrokerError):
    """The payload store can't be used; the text says what it refused, and never a password."""


class ObjectMissing(StoreError):
    """The store has no object of this name."""


class StoreDenied(StoreError):
    """The store knows who asks, or doesn't, and refuses."""


class ContentChanged(StoreError):
    """What was to be stored changed while it was."""


class ContentDamaged(StoreError):
    """An object holds something else than what it is named by."""
