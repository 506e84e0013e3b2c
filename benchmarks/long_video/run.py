"""Measures by the minute how a long video drifts, and how one of chained clips does.

    python -m benchmarks.long_video --out docs/benchmarks

The motion is the test clip's there and back again, so the truth of every frame is known and every
pose returns in each cycle: a network that does not drift makes the same frame of it each time.

Two methods generate it with the same networks, settings, noise and solver (DDIM). Faces are not
repainted.

"overlapping windows": the frames of `anchor_jax.stream`.

"chained clips": clips of one window each, as image-to-video models continue a video. The last frame
of a clip, uint8, is the first of the next one, which is generated so: the frame is encoded again
(mean of the posterior); at every step, the first latent of the window is that latent, noised to the
step's level with the initial noise; and the frame is also the picture of the person. The first
clip has no such frame and starts from the clip's picture.

Writes `long_video.json`, `.md` (a table), `.svg` (a plot) and for each method `long_video-*.png`
(the same pose at each minute), again after each cycle of the motion. Each method has a process of
its own. What grows with the length are the scores of frames alone. A run that was stopped goes on
where it was if the command is repeated.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anchor_jax import checkpoint
from anchor_jax.assets import open_assets
from anchor_jax.data.dataset import encode
from anchor_jax.errors import AnchorError, require
from anchor_jax.files import placed, write_text
from anchor_jax.generation.unfinished import open_unfinished
from anchor_jax.processes import run_alone
from anchor_jax.progress import open_bar
from anchor_jax.studies.clip import StudyClip, read_clip
from anchor_jax.studies.results import json_safe
from anchor_jax.studies.sheet import sheet
from anchor_jax.versions import versions
from benchmarks.arguments import clip_parser
from benchmarks.long_video.methods import METHODS
from benchmarks.long_video.report import plot, table
from benchmarks.long_video.scores import Meter, PingPong, Results

_NAME = "long_video"


@dataclass(frozen=True)
class Job:
    """What all methods share.

    Attributes:
        anchor: the ANCHOR.
        clip: folder of the test clip, see `studies.clip.read_clip`.
        frames: number of frames to generate, by method.
        out: folder for the results.
        minute: frames of a minute.
        steps: denoising steps; None: the anchor's.
    """

    anchor: Path
    clip: Path
    frames: dict[str, int]
    out: Path
    minute: int = 1800
    steps: int | None = None


def measure_method(name: str, job: Job) -> None:
    """Generate and measure with one method, and write the results after each cycle."""
    clip = read_clip(job.clip)
    loaded = checkpoint.load(job.anchor)
    changes = {"steps": job.steps, "solver": "ddim", "spacing": "leading", "devices": 1}
    sampling = loaded.settings.sampling.updated(**changes).resolved()
    count, order = job.frames[name], PingPong(len(clip))
    facts = {"anchor": str(job.anchor), "minute": job.minute, "settings": asdict(sampling)}
    poses = lambda start: (clip.poses[order.index(number)] for number in range(start, count))
    with open_unfinished(job.out / f"{_NAME}-{name.split()[0]}.png", facts) as unfinished:
        state = unfinished.state or {}
        frames = METHODS[name](loaded, clip, poses, sampling, state.get("frames"))
        results = Results(state.get("results"))
        done, meter = unfinished.count, Meter(loaded, clip)
        with open_bar(name, count, "frame", done=done) as bar:
            for batch in frames:
                numbers = range(done, done + len(batch))
                indices = np.array([order.index(number) for number in numbers])
                results.add(meter.measure(batch, indices))
                pairs = zip(numbers, batch, strict=True)
                results.shown += [image for n, image in pairs if _is_shown(n, order, job)]
                before, done = done, done + len(batch)
                bar(len(batch))
                if done // job.minute > before // job.minute:
                    results.end_minute()
                if done // order.period > before // order.period or done == count:
                    _write(name, results, order, clip, job, facts)
                both = lambda: {"frames": frames.state(), "results": results.state()}
                unfinished.save(both, done)


def _is_shown(number: int, order: PingPong, job: Job) -> bool:
    """Return whether a frame is the first of the clip, and the first such of a minute."""
    cycle, place = divmod(number, order.period)
    return not place and (not cycle or number // job.minute > (number - order.period) // job.minute)


def _write(
    name: str,
    results: Results,
    order: PingPong,
    clip: StudyClip,
    job: Job,
    facts: dict[str, Any],
) -> None:
    """Write the files with this method's results so far, beside those of the others."""
    path = job.out / f"{_NAME}.json"
    methods: dict[str, Any] = {}
    if path.is_file():
        record = json.loads(path.read_text("utf-8"))
        same = json.loads(json.dumps(json_safe(facts)))  # tuples are lists there
        if all(record.get(key) == value for key, value in same.items()):
            methods = record["methods"]
    methods[name] = results.summary(order.period, job.minute)
    methods = {each: methods[each] for each in METHODS if each in methods}
    record = json_safe(facts | {"versions": versions(), "methods": methods})
    write_text(path, f"{json.dumps(record, indent=1)}\n")
    write_text(path.with_suffix(".md"), f"{table(methods)}\n")
    write_text(path.with_suffix(".svg"), plot(methods, job.minute))
    shown = np.stack(results.shown)
    assert clip.truth is not None
    rows = [("truth", np.repeat(clip.truth[:1], len(shown), 0)), (name, shown)]
    with placed(job.out / f"{_NAME}-{name.split()[0]}.png") as picture:
        picture.write_bytes(encode(sheet(rows), 9))


def main(words: Sequence[str] | None = None) -> int:
    parser = clip_parser("long_video", __doc__)
    parser.add_argument("--frames", type=int, default=9000, help="frames to generate (9000)")
    parser.add_argument("--chained-frames", type=int, help="of chained clips (as many)")
    parser.add_argument("--minute", type=int, default=1800, help="frames of a minute (1800)")
    parser.add_argument("--steps", type=int, help="denoising steps (the anchor's)")
    parser.add_argument(
        "--methods", nargs="+", choices=METHODS, default=[*METHODS], help="which to measure (both)"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    args = parser.parse_args(words)
    counts = dict(zip(METHODS, (args.frames, args.chained_frames or args.frames), strict=True))
    try:
        require(
            (min(counts.values()) >= 1, "frames: expected at least 1"),
            (args.minute >= 1, f"minute is {args.minute}: expected at least 1 frame"),
        )
        clip = args.clip or open_assets().test
        job = Job(args.anchor, clip, counts, args.out, args.minute, args.steps)
        for name in args.methods:
            run_alone(measure_method, name, job, advice="take fewer frames")
    except (AnchorError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print((args.out / f"{_NAME}.md").read_text("utf-8"))
    return 0
