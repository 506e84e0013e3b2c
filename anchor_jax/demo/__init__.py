"""Run the demo: generate a video from the shipped anchor, measure it, and write a report."""
