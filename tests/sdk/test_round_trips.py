"""Every type of the codec, nested: equal values of equal types, the same in every process."""

import os
import subprocess
import sys
from pathlib import Path

from hypothesis import given, settings

from leveret import payload
from leveret.keys import load_keyring, new_key
from tests.sdk.everything import EXAMPLES, SLOW, everything, same

KEYS = load_keyring(new_key())
CONTEXT = payload.Context(project="p", run="r", definition="f", direction="result")


@settings(max_examples=600, deadline=None, derandomize=True, suppress_health_check=SLOW)
@given(everything)
def test_values_of_all_types_come_back_equal_and_of_equal_type(value: object) -> None:
    data = payload.seal(payload.encode(value), keys=KEYS, context=CONTEXT)
    for arrived in (data, bytearray(data)):
        assert same(payload.unseal(arrived, keys=KEYS, context=CONTEXT), value)


def hashes(seed: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.sdk.everything"],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_values_of_all_types_have_equal_bytes_and_identities_in_every_process() -> None:
    one, other = hashes("1"), hashes("2")
    assert len(one) >= EXAMPLES
    assert one == other
    assert all(" True " in line for line in one)
    assert sum(len(line.split()) == 3 for line in one) > EXAMPLES / 10
