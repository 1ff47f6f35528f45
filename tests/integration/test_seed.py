"""The snippets with which leveret was asked for run as they stand, as one script.

But for their slips: `define` comes from leveret; `asyncio.gather` doesn't take a list, so it is
`leveret.gather` here; the task takes `hyperparams`, so that is what the workflow passes; the
workflow is called by its own name, and awaited by `asyncio.run`. The tasks have bodies.
"""

import subprocess
import sys
from pathlib import Path

SEED = """
import asyncio

from typing import Any, List, TypedDict
import leveret
from leveret import define

HyperParams = TypedDict('HyperParams', lr=float, num_layers=int)
MyModel = Any
Data = Any

@define.workflow(name="train_and_pick_model")
async def train_and_pick_model(data: Data, hyperparams: List[HyperParams]) -> MyModel:
    train_awaitables = [train_model(data=data, hyperparams=hp) for hp in hyperparams]
    models = await leveret.gather(train_awaitables)
    return await find_best_model(models)


@define.task(name="train_model", version="0.0.1")
def train_model(data: Data, hyperparams: HyperParams) -> MyModel:
    score = sum(data) / hyperparams['num_layers'] + hyperparams['lr']
    return {'score': score, **HyperParams(**hyperparams)}


@define.task(name="find_best_model", version="0.0.1")
def find_best_model(models: List[MyModel]) -> MyModel:
    return max(models, key=lambda model: model['score'])


hyperparams = [
  dict(lr=0.01,  num_layers=2),
  dict(lr=0.001, num_layers=2),
  dict(lr=0.01,  num_layers=4),
  dict(lr=0.001, num_layers=4),
]

data = [1, 2, 3]
model = asyncio.run(train_and_pick_model(data, hyperparams))
print(model)
"""


def test_the_seeds_program_picks_a_model(tmp_path: Path) -> None:
    script = tmp_path / "seed.py"
    script.write_text(SEED)
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=60, check=False
    )
    assert "Traceback" not in done.stderr
    assert done.stdout == "{'score': 3.01, 'lr': 0.01, 'num_layers': 2}\n"
