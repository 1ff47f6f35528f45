"""Train a few networks on handwritten digits in parallel, and pick the best.

    python examples/train_and_pick.py

Nothing below says where it runs: in this process, or on a cluster if LEVERET_URL names one and
workers serve this file (`leveret worker examples/train_and_pick.py`).
"""

import asyncio
import time
import warnings
from typing import Any, TypedDict

import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

import leveret
from leveret import define

Array = np.ndarray[Any, np.dtype[Any]]


class HyperParams(TypedDict):
    lr: float
    num_layers: int


class Digits(TypedDict):
    """Images as rows of 64 grey values from 0 to 1, and the digits that they show."""

    images: Array
    labels: Array


class Data(TypedDict):
    train: Digits
    """To learn from."""
    validation: Digits
    """To choose by."""
    held_out: Digits
    """To judge the chosen one by: nothing was fitted or picked on these."""


class Model(TypedDict):
    """A network as its weights: plain arrays, which any machine can read."""

    hyperparams: HyperParams
    weights: list[Array]
    biases: list[Array]
    seconds: float
    """What the training took."""


class Score(TypedDict):
    hyperparams: HyperParams
    seconds: float
    validation: float
    """Share of the validation images that it names rightly."""


class Picked(TypedDict):
    model: Model
    held_out: float
    """Share of the held-out images that it names rightly."""
    scores: list[Score]
    """Of all models, in the order of the hyperparameters."""


HYPERPARAMS: list[HyperParams] = [
    HyperParams(lr=0.01, num_layers=2),
    HyperParams(lr=0.001, num_layers=2),
    HyperParams(lr=0.01, num_layers=4),
    HyperParams(lr=0.001, num_layers=4),
]


@define.workflow(name="train_and_pick_model")
async def train_and_pick_model(hyperparams: list[HyperParams] = HYPERPARAMS) -> Picked:
    data = await prepare_data(held_out=0.25)
    models = await asyncio.gather(*[train_model(data=data, hyperparams=hp) for hp in hyperparams])
    return await find_best_model(models, data)


@define.workflow(name="prepare_data")
async def prepare_data(held_out: float) -> Data:
    return await split(await load_images(), held_out)


@define.task(name="load_images", version="0.0.1")
def load_images() -> Digits:
    """The 1,797 digits of 8 by 8 pixels that come with scikit-learn."""
    images, labels = load_digits(return_X_y=True)
    return Digits(images=images / 16, labels=labels)


@define.task(name="split", version="0.0.1")
def split(digits: Digits, held_out: float) -> Data:
    """Set one share of the images aside to judge by, and as many to choose by."""
    rest, kept = _parted(digits, held_out)
    train, validation = _parted(rest, held_out)
    return Data(train=train, validation=validation, held_out=kept)


@define.task(name="train_model", version="0.0.1")
def train_model(data: Data, hyperparams: HyperParams) -> Model:
    """Train one network of `num_layers` hidden layers for fifty rounds."""
    began = time.perf_counter()
    network = MLPClassifier(
        hidden_layer_sizes=(48,) * hyperparams["num_layers"],
        learning_rate_init=hyperparams["lr"],
        max_iter=50,
        random_state=0,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        network.fit(data["train"]["images"], data["train"]["labels"])
    return Model(
        hyperparams=hyperparams,
        weights=network.coefs_,
        biases=network.intercepts_,
        seconds=time.perf_counter() - began,
    )


@define.task(name="find_best_model", version="0.0.1")
def find_best_model(models: list[Model], data: Data) -> Picked:
    """Choose by the validation images, then judge the chosen one by those held out."""
    accuracies = [accuracy(model, data["validation"]) for model in models]
    best = models[int(np.argmax(accuracies))]
    return Picked(
        model=best,
        held_out=accuracy(best, data["held_out"]),
        scores=[
            Score(hyperparams=model["hyperparams"], seconds=model["seconds"], validation=share)
            for model, share in zip(models, accuracies, strict=True)
        ],
    )


def accuracy(model: Model, digits: Digits) -> float:
    """The share of the images whose digit the network's last layer gives the highest value."""
    *hidden, last = zip(model["weights"], model["biases"], strict=True)
    signal = digits["images"]
    for weights, bias in hidden:
        signal = np.maximum(signal @ weights + bias, 0)
    answers = (signal @ last[0] + last[1]).argmax(axis=1)
    return float((answers == digits["labels"]).mean())


def _parted(digits: Digits, share: float) -> tuple[Digits, Digits]:
    images, others, labels, other_labels = train_test_split(
        digits["images"],
        digits["labels"],
        test_size=share,
        random_state=0,
        stratify=digits["labels"],
    )
    return Digits(images=images, labels=labels), Digits(images=others, labels=other_labels)


def report(picked: Picked) -> None:
    """Print the models and the winner."""
    winner = picked["model"]["hyperparams"]
    table = Table(title="Models", title_justify="left")
    for heading in ("learning rate", "layers", "trained in", "validation accuracy", ""):
        table.add_column(heading, justify="right")
    for score in picked["scores"]:
        hyperparams = score["hyperparams"]
        table.add_row(
            f"{hyperparams['lr']:g}",
            str(hyperparams["num_layers"]),
            f"{score['seconds']:.2f} s",
            f"{score['validation']:.3f}",
            "picked" if hyperparams == winner else "",
        )
    console = Console(highlight=False)
    console.print(table)
    console.print(
        f"Winner: learning rate {winner['lr']:g}, {winner['num_layers']} layers; "
        f"accuracy on held-out images {picked['held_out']:.3f}"
    )


async def main() -> None:
    report(await leveret.watch(train_and_pick_model(HYPERPARAMS)))


if __name__ == "__main__":
    asyncio.run(main())
