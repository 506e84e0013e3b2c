"""Which checkpoints of a run are kept."""

import numpy as np
import pytest

from anchor_jax.training.checkpoints import Checkpoints


@pytest.mark.parametrize("stops", [(), (3,), (1, 2, 3, 4)])
def test_the_last_and_the_best_stay(tmp_path, capfd, stops):
    """Catches a score that is forgotten when the process ends, and checkpoints without a score that
    take the place of the best. `stops` are the steps after which the run begins anew."""
    scores = {1: 0.5, 2: 0.9, 3: None, 4: 0.1, 5: None, 6: None}
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep_last=2, keep_best=1)
    for step, score in scores.items():
        checkpoints.save(step, {"x": np.full(2, step)}, {"position": step}, score)
        checkpoints.wait()
        if step in stops:
            checkpoints.close()
            checkpoints = Checkpoints(tmp_path / "checkpoints", keep_last=2, keep_best=1)
    assert checkpoints.latest() == 6
    checkpoints.close()
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["2", "5", "6"]
    assert "metric" not in capfd.readouterr().err
