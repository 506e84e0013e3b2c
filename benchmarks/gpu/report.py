"""The results of a run: sections with a time limit, saved after each section, and a table."""

import json
import os
import platform
import re
import statistics
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax

from anchor_jax.errors import first_line
from anchor_jax.pages import markdown
from anchor_jax.versions import versions

ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "torch")
_PLUGINS = ("jax-cuda12-plugin", "jax-cuda13-plugin")


class Section:
    """One section of a run. It has results by name, and a time limit that its work looks at.

    Attributes:
        results: name of what was measured -> names and values of the table.
        notes: what a reader of the results has to know.
    """

    def __init__(self, deadline: float):
        self.results: dict[str, dict[str, Any]] = {}
        self.notes: list[str] = []
        self.skipped: list[str] = []
        self._deadline = deadline

    def left(self) -> float:
        """Return the seconds until the limit."""
        return self._deadline - time.monotonic()

    @contextmanager
    def measuring(self, name: str) -> Iterator[dict[str, Any]]:
        """Yield the dict of a result. An error in the block is recorded there, and ends nothing
        else. `out_of_time` tells beforehand whether to begin."""
        result = self.results.setdefault(name, {})
        try:
            yield result
        except Exception as error:  # one kernel that fails must not end the run
            traceback.print_exc()
            result["error"] = first_line(error)[:300]

    def out_of_time(self, name: str, needed: float = 0.0) -> bool:
        """Return whether less than `needed` seconds are left; `name` is then noted as skipped."""
        if self.left() > needed:
            return False
        self.skipped.append(name)
        return True

    def as_json(self) -> dict[str, Any]:
        """Return results, notes and what was skipped for lack of time."""
        more = {"notes": self.notes, "skipped": self.skipped}
        return {"results": self.results, **{key: value for key, value in more.items() if value}}


class Report:
    """All sections of a run. It prints and saves them as they are done.

    Args:
        environment: where the run takes place, see `environment`.
        limit: seconds after which the run ends, whatever it does.
        out: folder of the JSON file and of the table; None saves nothing.
        name: name of the two files.
    """

    def __init__(self, environment: dict[str, Any], limit: float, out: Path | None, name: str):
        self.content: dict[str, Any] = {"environment": environment, "sections": {}}
        self._end = time.monotonic() + limit
        self._files = None if out is None else out / f"{name}.json"
        self._lock = threading.Lock()

    def left(self) -> float:
        """Return the seconds until the end of the run."""
        return self._end - time.monotonic()

    def run(self, name: str, work: Callable[[Section], None], limit: float) -> None:
        """Run one section, at most `limit` seconds if its work looks at the time, and save it."""
        began = time.monotonic()
        section = Section(min(self._end, began + limit))
        running: dict[str, Any] = {"running": True}
        self.content["sections"][name] = running
        print(f"{name}: at most {section.left():.0f} s", file=sys.stderr, flush=True)
        try:
            work(section)
        except Exception as error:
            traceback.print_exc()
            running["error"] = first_line(error)[:300]
        del running["running"]
        running |= {"seconds": round(time.monotonic() - began, 1), **section.as_json()}
        running |= {"peak_gb": peak_gb()}
        self.save()
        print(json.dumps({name: running}), flush=True)

    def save(self) -> None:
        """Write the JSON file and the table."""
        if self._files is None:
            return
        with self._lock:
            self._files.parent.mkdir(parents=True, exist_ok=True)
            self._files.write_text(json.dumps(self.content, indent=1) + "\n", "utf-8")
            self._files.with_suffix(".md").write_text(table(self.content) + "\n", "utf-8")

    def watch(self) -> threading.Timer:
        """End the process at the end of the run's time, even inside a compilation. What is done by
        then is saved. The exit code is then 3. The result's `cancel` stops the watch."""

        def end() -> None:
            running = [k for k, v in self.content["sections"].items() if v.get("running")]
            self.content["stopped"] = f"the time was over in: {', '.join(running)}"
            self.save()
            print(table(self.content), flush=True)
            os._exit(3)

        timer = threading.Timer(self.left(), end)
        timer.daemon = True
        timer.start()
        return timer


def seconds_of(call: Callable[[], Any], *, batches: int = 3, at_least: float = 0.2) -> float:
    """Measure the seconds of a call whose result is on the device: the median of `batches`.

    The calls of a batch are queued one behind the other, as many as take `at_least` seconds, so
    that the time to queue them matters only for kernels of some microseconds. The first call, which
    compiles, is not counted.
    """
    jax.block_until_ready(call())
    began = time.perf_counter()
    jax.block_until_ready(call())
    once = time.perf_counter() - began
    count = max(1, min(200, int(at_least / max(once, 1e-6))))
    times = []
    for _ in range(batches):
        began = time.perf_counter()
        result = None
        for _ in range(count):
            result = call()
        jax.block_until_ready(result)
        times.append((time.perf_counter() - began) / count)
    return statistics.median(times)


def peak_gb() -> float | None:
    """Return the largest memory of the device in use so far, in GB; None if it tells none."""
    stats = jax.local_devices()[0].memory_stats() or {}
    peak = stats.get("peak_bytes_in_use")
    return None if peak is None else round(peak / 1e9, 2)


def program_gb(compiled: Any) -> dict[str, float]:
    """Return the memory that a compiled program asks for, in GB: arguments, and temporaries."""
    sizes = compiled.memory_analysis()
    if sizes is None:
        return {}
    return {
        "arguments_gb": round(sizes.argument_size_in_bytes / 1e9, 2),
        "temporaries_gb": round(sizes.temp_size_in_bytes / 1e9, 2),
    }


def environment(module: str) -> dict[str, Any]:
    """Return device, versions, commit and command of a run."""
    device = jax.local_devices()[0]
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "device": device.device_kind,
        "devices": jax.local_device_count(),
        "driver": _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "platform": device.client.platform_version.strip(),
        "versions": {"python": platform.python_version(), **versions((*_PACKAGES, *_PLUGINS))},
        "commit": _output("git", "-C", str(ROOT), "describe", "--always", "--dirty"),
        "command": " ".join(["python", "-m", module, *sys.argv[1:]]),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def _output(*command: str) -> str | None:
    """Return the first line that a command prints, None if it fails or is not there."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.split("\n")[0] if done.returncode == 0 else None


def slug(device: str) -> str:
    """Make a file name of a device.

    >>> slug("NVIDIA H200")
    'nvidia-h200'
    """
    return re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")


def table(content: dict[str, Any]) -> str:
    """Format a run as Markdown: the environment, and a table for each section."""
    about = content["environment"]
    named = ", ".join(f"{name} {value}" for name, value in about["versions"].items())
    lines = [
        f"# {about['device']}",
        "",
        f"`{about['command']}` on {about['date']}, commit {about['commit']}, driver"
        f" {about['driver']}, {about['platform'].splitlines()[0]}; {named}.",
        *(["", f"**Not complete**: {content['stopped']}."] if "stopped" in content else []),
    ]
    for name, section in content["sections"].items():
        lines += ["", f"## {name}", ""]
        lines.append(_rows(section.get("results", {})))
        notes = list(section.get("notes", []))
        if "error" in section:
            notes.append(f"The section ended with an error: {section['error']}")
        if "skipped" in section:
            notes.append(f"Skipped for lack of time: {', '.join(section['skipped'])}.")
        if notes:
            lines += ["", *(f"- {note}" for note in notes)]
    return "\n".join(lines)


def _rows(results: dict[str, dict[str, Any]]) -> str:
    """Format results as a table, whose columns are all names of values."""
    columns = list(dict.fromkeys(key for result in results.values() for key in result))
    if not columns:
        return "(nothing was measured)"
    rows = [["", *columns]]
    for name, result in results.items():
        rows.append([name, *(_show(result.get(column)) for column in columns)])
    return markdown(rows)


def _show(value: Any) -> str:
    """Format a value of a table: numbers with three significant digits.

    >>> _show(1234.5), _show(0.00012345), _show(None), _show(119)
    ('1234', '0.000123', '', '119')
    """
    if value is None:
        return ""
    if not isinstance(value, float):
        return str(value).replace("|", "/")
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
