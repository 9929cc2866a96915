"""Wrong answers that a model says by heart, with a model whose answers are known."""

import numpy as np

from balora_jax.evaluation.inheritance.noise import measure_noise
from balora_jax.generation.scoring import Score


class Known:
    """A model with the losses and likeliest answers of a table."""

    def __init__(self, losses, greedy=()):
        self.losses = losses
        self.greedy = greedy

    def scores(self, pairs):
        for index, (prompt, answer) in reversed(list(enumerate(pairs))):
            loss = self.losses[prompt[0]]
            yield index, Score(-loss * len(answer), prompt[0] in self.greedy, len(answer))


def _pairs(numbers):
    return [([number], [1] * (1 + number % 3)) for number in numbers]


def test_known_wrong_answers_are_counted():
    base = Known(dict.fromkeys(range(10), 1.0), greedy={0})
    tuned = Known(dict.fromkeys(range(10), 0.5), greedy={0, 1, 2, 9})
    fit = measure_noise(base, tuned, _pairs(range(10)), _pairs(range(4)))
    assert fit.wrong == 4
    assert fit.memorized.value == 0.75 and fit.memorized_before.value == 0.25
    assert fit.memorized.low <= 0.75 <= fit.memorized.high


def test_nothing_is_claimed_where_no_wrong_answer_is_known():
    model = Known(dict.fromkeys(range(3), 1.0))
    fit = measure_noise(model, model, _pairs(range(3)), [])
    assert fit.memorized is None and fit.memorized_before is None and fit.wrong == 0


def test_answers_that_neither_model_expects_come_first():
    draw = np.random.default_rng(0)
    before = dict(enumerate(draw.uniform(1, 2, 50)))
    after = dict(enumerate(draw.uniform(0, 1, 50)))
    before |= {7: 5.0, 20: 6.0, 30: 9.0}
    after |= {7: 4.0, 20: 3.0, 31: 9.0}
    fit = measure_noise(Known(before), Known(after), _pairs(range(50)), [])
    assert {suspect.example for suspect in fit.suspects[:2]} == {7, 20}
    assert len(fit.suspects) == 10
    first = fit.suspects[0]
    assert (first.loss_before, first.loss_after) == (before[first.example], after[first.example])
