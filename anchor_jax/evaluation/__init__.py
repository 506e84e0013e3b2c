"""Metrics that compare generated frames with true frames, one file per metric.

A metric of frames is a function (images, truth, region) -> float64 (n,) in a file of its own.
Networks are linen modules that read the files everybody uses, by `weights`. `network_scores`
measures what can be measured on this machine; `anchor_jax.studies.evaluate` measures whole videos.
"""
