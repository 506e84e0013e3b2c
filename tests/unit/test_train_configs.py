"""Settings of the training programs that depend on each other."""

import pytest

from anchor_jax.train.configs import PRESETS, Job, StagePlaces, parse


@pytest.mark.parametrize(
    ("words", "warmup", "told"),
    [
        ("", 100, ""),
        ("--steps 1000", 100, ""),
        ("--steps 500", 50, "warmup is cut from 100 to 50 steps, a tenth of the run's 500"),
        ("--warmup 900", 600, "warmup is cut from 900 to 600 steps, a tenth of the run's 6000"),
        ("--steps 9", 0, "warmup is cut from 100 to 0 steps, a tenth of the run's 9"),
    ],
)
def test_a_short_run_warms_up_for_a_tenth_of_it(words, warmup, told, capsys):
    """Catches a run that ends while its rate still rises, a preset's warm-up that refuses a short
    run, one that is cut without a word, and a warm-up of a long run that is changed."""
    places = "--preset small --anchor anchor --data data --out run"
    job = parse(Job, StagePlaces, PRESETS["finetune"], "finetune", "", f"{places} {words}".split())
    assert job.optimizer.warmup == warmup
    assert capsys.readouterr().err == (f"anchor-jax: note: {told}\n" if told else "")
