"""Many programs in the sandbox, several at a time."""

import concurrent.futures
from collections.abc import Callable, Sequence

from balora_jax.evaluation.sandbox.levels import Level, strongest_level
from balora_jax.evaluation.sandbox.outcomes import Limits, Outcome
from balora_jax.evaluation.sandbox.program import Supervisors, run_program


def run_programs(
    programs: Sequence[str],
    *,
    limits: Limits,
    workers: int,
    on_done: Callable[[int, Outcome], None] | None = None,
    level: Level | None = None,
) -> list[Outcome]:
    """Run untrusted Python programs, each apart from all others, and judge them.

    A program passes if it runs through to its end without an exception: solution and tests are
    one program. It has Python's standard library and no other package. The name of its module is
    not __main__, as in the evaluation of HumanEval (Chen et al., arXiv 2107.03374).

    An interrupt or an exception of `on_done` ends all programs.

    Args:
      programs: Python sources.
      limits: the limits on each.
      workers: programs at one time.
      on_done: called with a program's index and outcome as soon as it has ended.
      level: the level of isolation; None is the strongest that this machine allows.

    Returns:
      The outcome of each program.

    Raises:
      BadInput: this machine can run no program.
    """
    level = level or strongest_level()
    supervisors = Supervisors()
    outcomes: dict[int, Outcome] = {}
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        try:
            futures = {
                pool.submit(run_program, program, limits, level, supervisors): index
                for index, program in enumerate(programs)
            }
            for future in concurrent.futures.as_completed(futures):
                index = futures[future]
                outcomes[index] = future.result()
                if on_done is not None:
                    on_done(index, outcomes[index])
        except BaseException:
            supervisors.stop()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [outcomes[index] for index in range(len(programs))]
