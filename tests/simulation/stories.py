"""Random stories: played from a seed, shortened when a rule is broken, and told."""

from __future__ import annotations

import random
import traceback
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

Step: TypeAlias = tuple[Any, ...]
"""What happens next: the name of a step, and all that chance has decided of it."""

_SHORTENINGS = 400
"""Maximum number of plays that shorten one story."""


class Broken(AssertionError):
    """Something does not hold that must always hold."""


class Stage(Protocol):
    """A world in which a story is played."""

    def draw(self, rng: random.Random) -> Step:
        """Return a step that fits the world as it is now."""

    def play(self, step: Step) -> None:
        """Carry out a step, and check everything. Raises Broken."""

    def finish(self) -> None:
        """Bring all that goes on to an end, and check that there is one. Raises Broken."""

    def picture(self) -> str:
        """Describe the world in a few words."""

    def close(self) -> None:
        """Let go of everything, whatever has happened."""


MakeStage: TypeAlias = Callable[[int], Stage]
"""Make the stage of a seed, with everything in it that does not come from steps."""


def run(make_stage: MakeStage, seed: int, length: int) -> Stage:
    """Play the story of a seed, and return its stage. Raises Broken with the seed and the shortened story."""
    stage, rng = make_stage(seed), random.Random(seed)
    played: list[Step] = []
    try:
        for _ in range(length):
            step = stage.draw(rng)
            played.append(step)
            stage.play(step)
        stage.finish()
    except Exception as error:
        short = shortened(make_stage, seed, played, type(error))
        raise Broken(tell(make_stage, seed, short)) from error
    finally:
        stage.close()
    return stage


def shortened(make_stage: MakeStage, seed: int, steps: Sequence[Step], error: type[Exception]) -> Sequence[Step]:
    """Leave out all steps without which the story still ends in an error of this type."""
    plays, size = 0, len(steps) // 2
    while size:
        begin, before = 0, len(steps)
        while begin < len(steps):
            fewer = [*steps[:begin], *steps[begin + size :]]
            if isinstance(_failure(make_stage, seed, fewer), error):
                steps = fewer
            else:
                begin += size
            plays += 1
            if plays == _SHORTENINGS:
                return steps
        # The last step that can be left out may be one that others needed.
        size = size // 2 if size > 1 or len(steps) == before else 1
    return steps


def tell(make_stage: MakeStage, seed: int, steps: Sequence[Step]) -> str:
    """The story with the state of the world after each step, and how it ends."""
    lines = [f"seed {seed}:"]

    def note(number: int, step: Step, stage: Stage) -> None:
        lines.append(f"{number:4}. {' '.join(map(str, step)):40} -> {stage.picture()}")

    error = _failure(make_stage, seed, steps, note)
    if error is None:
        lines.append("and the error does not come again: the story depends on something outside it")
    elif isinstance(error, Broken):
        lines.append(f"broken: {error}")
    else:
        lines.append("".join(traceback.format_exception(error)))
    return "\n".join(lines)


def _failure(
    make_stage: MakeStage,
    seed: int,
    steps: Sequence[Step],
    note: Callable[[int, Step, Stage], None] | None = None,
) -> Exception | None:
    stage = make_stage(seed)
    number, step = 0, ("begin",)
    try:
        for number, step in enumerate(steps, 1):
            stage.play(step)
            if note is not None:
                note(number, step, stage)
        number, step = number + 1, ("finish",)
        stage.finish()
    except Exception as error:
        if note is not None:
            note(number, step, stage)
        return error
    finally:
        stage.close()
    return None
