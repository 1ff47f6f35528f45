"""How a worker is: what `leveret health` tells of it."""

from collections.abc import Sequence

from leveret_broker.errors import TransportError
from leveret_broker.health import Condition, Pulse
from leveret_broker.transport import Transport


class Watch:
    """Told of what the worker does, it says how that goes."""

    def __init__(self, transport: Transport, control: str) -> None:
        """`control`: the queue that only this worker consumes."""
        self._transport = transport
        self._control = control
        self._pulse = Pulse(self._ask_broker)
        self._doing = "has not started"

    def does(self, what: str) -> None:
        """It is not ready yet, or no more, because of this."""
        self._doing = what

    def serves(self) -> None:
        """From now on it should be ready."""
        self._doing = ""

    async def condition(
        self, *, deaf: Sequence[str], queues: int, is_joined: bool, unreadable: str | None
    ) -> Condition:
        """How it is, given the queues that it should consume and doesn't, how many it consumes
        work from, whether a coordinator knows it, and why it can't read what it is given."""
        if self._doing:
            return Condition(text=self._doing, is_ready=False)
        if deaf:
            text = f"does not consume {', '.join(deaf)}, which it serves"
            return Condition(text=text, is_ready=False)
        if problem := await self._pulse.problem():
            return Condition(text=f"may not be connected: {problem}", is_ready=False)
        if not is_joined:
            return Condition(text="waits for a coordinator to let it in", is_ready=False)
        if unreadable is not None:
            return Condition(
                text=f"could not read its latest payload: {unreadable}", is_ready=False
            )
        number = f"{queues} queue" if queues == 1 else f"{queues} queues"
        return Condition(text=f"is connected, and consumes {number}", is_ready=True)

    async def stop(self) -> None:
        """Ask the broker no more."""
        await self._pulse.stop()

    async def _ask_broker(self) -> str | None:
        try:
            status = await self._transport.inspect(self._control)
        except TransportError as error:
            return str(error)
        if status is None or status.consumers == 0:
            return f"the broker knows of nobody who consumes {self._control!r}"
        return None
