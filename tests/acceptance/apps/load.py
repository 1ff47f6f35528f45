"""Many runs at once. All of them draw from one roll of tickets."""

from leveret import define
from tests.acceptance.apps.book import noted, passed, passed_in_a_process, ticket

ROLL = "load"


@define.task
async def carry(number: int) -> int:
    with noted():
        await passed(ticket(ROLL), ROLL)
        return number


@define.task
def carry_in_a_process(number: int) -> int:
    with noted():
        passed_in_a_process(ticket(ROLL), ROLL)
        return number


@define.workflow
async def relay(number: int) -> int:
    return await carry(number)
