"""A script without `if __name__ == "__main__"`."""

import asyncio

from leveret_worker.processes import ProcessPool
from tests.worker.pooling import KEYS, a_job, opened


class Place:
    def __init__(self, x: int) -> None:
        self.x = x


def move(place: Place, by: int) -> Place:
    assert isinstance(place, Place)
    return Place(place.x + by)


async def main() -> None:
    pool = ProcessPool(size=1, keys=KEYS)
    await pool.start()
    moved = opened(await pool.run(a_job(move, Place(1), 2)))
    assert isinstance(moved, Place)
    print(f"moved to {moved.x}")
    await pool.stop()


print("the script runs")
asyncio.run(main())
