"""The help of the commands, and standard output that nobody reads to its end."""

import os
import re
import subprocess
import sys

import pytest

from anchor_jax import cli
from train.configs import PRESETS


@pytest.mark.parametrize("words", [["--preset", "{}", "--help"], ["--help", "--preset={}"]])
def test_help_shows_the_values_of_the_preset(words, capsys):
    """Catches a help that shows the values of the first preset for all of them."""
    for name in ("sd15", "small"):
        with pytest.raises(SystemExit):
            cli.main(["train", "finetune", *(word.format(name) for word in words)])
        text = re.sub(r"[\s│]+", " ", capsys.readouterr().out)
        preset = PRESETS["finetune"][name]
        shown = {
            option: re.search(rf"--{option} .*?\(default: ([^)]*)\)", text)
            for option in ("steps", "learning-rate", "warmup")
        }
        values = {option: match and float(match[1]) for option, match in shown.items()}
        assert values == {
            "steps": preset.steps,
            "learning-rate": preset.optimizer.learning_rate,
            "warmup": preset.optimizer.warmup,
        }
        assert f"those of --preset {name}." in text


@pytest.mark.parametrize(
    "words", [["--help"], ["--version"], ["generate", "--help"], ["train", "finetune", "--help"]]
)
def test_a_closed_pipe_ends_the_command_silently(words):
    """Catches an error message or a traceback in `anchor-jax --help | head`."""
    reader, writer = os.pipe()
    os.close(reader)
    code = "import sys; from anchor_jax.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, *words]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(writer)
    assert done.stderr == ""
    assert done.returncode == 128 + 13
