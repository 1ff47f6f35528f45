"""A module with a task that workers have installed."""

from leveret import define


@define.task
def stays() -> str:
    return "here"
