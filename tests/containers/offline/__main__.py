"""Make sure that the base images are there, and print their names as variables: `BASE=…`."""

import sys

from tests.containers.engine import NoEngine
from tests.containers.offline.bases import python_base, rabbitmq_base


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        print(f"BASE={python_base(tell).name}")
        print(f"RABBITMQ_IMAGE={rabbitmq_base(tell).name}")
    except NoEngine as error:
        sys.exit(str(error))
