"""The help of the commands, and standard output that nobody reads to its end."""

import os
import re
import socket
import subprocess
import sys
from typing import Any

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


def run(words: list[str], **streams: Any) -> subprocess.CompletedProcess[str]:
    """Run `anchor-jax` in a process of its own."""
    code = "import sys; from anchor_jax.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, *words]
    return subprocess.run(command, **streams, text=True, timeout=60)


def closed_pipe() -> int:
    """The writing end of a pipe whose reader is gone."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def closed_socket() -> int:
    """One end of a connection whose other end is gone."""
    reader, writer = socket.socketpair()
    reader.close()
    return writer.detach()


@pytest.mark.parametrize("make", [closed_pipe, closed_socket])
@pytest.mark.parametrize(
    "words", [["--help"], ["--version"], ["generate", "--help"], ["train", "finetune", "--help"]]
)
def test_a_closed_output_ends_the_command_silently(words, make):
    """Catches an error message or a traceback in `anchor-jax --help | head`, where a program
    that runs ours connects them by a pipe or, as Node.js does, by a socket."""
    writer = make()
    done = run(words, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert done.stderr == ""
    assert done.returncode == 128 + 13


def test_an_error_that_nobody_reads_keeps_its_code():
    """Catches bad input with the code of a crash where standard error is closed."""
    writer = closed_pipe()
    done = run(["nonsense"], stdout=subprocess.PIPE, stderr=writer)
    os.close(writer)
    assert (done.returncode, done.stdout) == (2, "")
