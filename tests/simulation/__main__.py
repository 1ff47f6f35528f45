"""Run schedules by hand.

python -m tests.simulation 7                      the schedule of a seed, with its trace
python -m tests.simulation '7:[t]:fair:cancel@3+0'  one as a failing test prints it
python -m tests.simulation 0 10000                those of many seeds, until one fails
"""

import sys
import warnings

from tests.simulation import schedule, simulation


def main() -> int:
    match sys.argv[1:]:
        case [text]:
            wanted = schedule.parse(text)
            print(simulation.explain(wanted))
            return _run(wanted)
        case [first, last]:
            return max(_run(schedule.draw(seed)) for seed in range(int(first), int(last)))
        case _:
            print(__doc__)
            return 2


def _run(wanted: schedule.Schedule) -> int:
    try:
        simulation.simulate(wanted)
    except simulation.Failed as failed:
        print(failed)
        return 1
    return 0


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    sys.exit(main())
