"""Clips generated and held against their truth: what the demo and the paper's studies share."""
