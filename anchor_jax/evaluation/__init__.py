"""Metrics that compare generated frames with true frames, one file per metric.

A new metric is a function (images, truth, region) -> float64 (n,) in a file of its own.
"""
