"""Write the scores of a long video as a table and a plot."""

from typing import Any

import numpy as np

from anchor_jax.pages import markdown, svg
from benchmarks.long_video.scores import SCORES


def table(methods: dict[str, Any]) -> str:
    """Format the means of the first cycle and of each minute as a Markdown table. Colours are those
    of red, green and blue."""
    lines = [["", "", *(heading for heading, _ in SCORES.values())]]
    for name, result in methods.items():
        minutes = [(f"minute {i}", row) for i, row in enumerate(result["minutes"], 1)]
        for title, row in [("first cycle", result["cycles"][0]), *minutes]:
            cells = [
                " / ".join(f"{x:.{decimals}f}" for x in np.atleast_1d(row[key]))
                for key, (_, decimals) in SCORES.items()
            ]
            lines.append([name, title, *cells])
    return markdown(lines)


def plot(methods: dict[str, Any], minute: int) -> str:
    """Plot the means of whole cycles as SVG text, with a panel for each score."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 6), layout="constrained")
    for number, (key, (heading, _)) in enumerate(SCORES.items(), 1):
        axes = figure.add_subplot(2, 3, number)
        for colour, (name, result) in enumerate(methods.items()):
            cycles = result["cycles"]
            places = (np.arange(len(cycles)) + 0.5) * (result["frames"] / minute / len(cycles))
            values = np.array([row[key] for row in cycles]).reshape(len(cycles), -1)
            for line, style in zip(values.T, ("-", "--", ":"), strict=False):
                axes.plot(places, line, style, color=f"C{colour}", label=name)
                name = None  # one entry of the key for all channels
        axes.set_title(heading, fontsize=9)
        axes.tick_params(labelsize=8)
    figure.axes[0].legend(fontsize=8)
    figure.supxlabel("minutes; means of cycles; colours: red -, green --, blue :", fontsize=9)
    return svg(figure)
