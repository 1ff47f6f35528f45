"""The snippets with which leveret was asked for run as they stand.

But for their slips: `asyncio.gather` doesn't take a list, so it is `leveret.gather` here; the task
takes `hyperparams`, so that is what the workflow passes; and the workflow is called by its name.
"""

import asyncio
from typing import Any, TypedDict

import leveret
from leveret import define


class HyperParams(TypedDict):
    lr: float
    num_layers: int


MyModel = Any
Data = Any


@define.workflow(name="train_and_pick_model")
async def train_and_pick_model(data: Data, hyperparams: list[HyperParams]) -> MyModel:
    train_awaitables = [train_model(data=data, hyperparams=hp) for hp in hyperparams]
    models = await leveret.gather(train_awaitables)
    return await find_best_model(models)


@define.task(name="train_model", version="0.0.1")
def train_model(data: Data, hyperparams: HyperParams) -> MyModel:
    return {"score": sum(data) / hyperparams["num_layers"] + hyperparams["lr"], **hyperparams}


@define.task(name="find_best_model", version="0.0.1")
def find_best_model(models: list[MyModel]) -> MyModel:
    return max(models, key=lambda model: model["score"])


hyperparams = [
    HyperParams(lr=0.01, num_layers=2),
    HyperParams(lr=0.001, num_layers=2),
    HyperParams(lr=0.01, num_layers=4),
    HyperParams(lr=0.001, num_layers=4),
]


def test_the_seeds_program_picks_a_model() -> None:
    model = asyncio.run(train_and_pick_model([1, 2, 3], hyperparams))
    assert model == {"score": 3.01, "lr": 0.01, "num_layers": 2}
