"""Generate clips and compare them with their ground truth, for the demo and the paper's studies."""
