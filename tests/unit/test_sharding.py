"""Batches, parameters and their moments over eight devices, which a process of its own forces."""

import os
import subprocess
import sys

PROGRAM = """
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P
from anchor_jax import devices
from anchor_jax.training import sharding

mesh = devices.make_mesh()
assert mesh.size == 8
tree = {
    "kernel": np.arange(3 * 16 * 32.).reshape(3, 16, 32),
    "square": np.ones((8, 8)),
    "odd": np.ones((7, 9)),
    "number": np.float32(3),
}

# FSDP: along the longest axis that eight divides, else whole.
places = sharding.state_sharding(mesh, tree, fsdp=True)
specs = {name: tuple(place.spec) for name, place in places.items()}
assert specs == {
    "kernel": (None, None, "data"),
    "square": ("data", None),
    "odd": (None, None),
    "number": (),
}, specs
put = sharding.put_whole(places, tree)
shards = {shard.device: np.asarray(shard.data) for shard in put["kernel"].addressable_shards}
assert len(shards) == 8 and {shard.shape for shard in shards.values()} == {(3, 16, 4)}
back = sharding.gather(mesh, put)
for name in tree:
    np.testing.assert_array_equal(np.asarray(back[name]), tree[name])
    assert len(back[name].devices()) == 1

# Without: whole everywhere.
whole = sharding.put_whole(sharding.state_sharding(mesh, tree, fsdp=False), tree)
assert all(leaf.sharding.is_fully_replicated for leaf in whole.values())

# A batch is cut into rows, in their order.
numbers = np.arange(16 * 2).reshape(16, 2)
batch = devices.put_batch(mesh, {"rows": numbers})["rows"]
assert batch.sharding.spec == P("data")
np.testing.assert_array_equal(np.asarray(batch), numbers)
assert not batch.sharding.is_fully_replicated

# Each device computes its rows, and one collective brings all results together.
def rows(whole, x, y):
    assert x.shape == (2, 2)
    return {"sum": x * whole + y[:, None], "half": (x[:, :1] - y[:, None]).astype(jnp.bfloat16)}

scale, more = np.float32(3), np.arange(16, dtype=np.int32)
arguments = devices.put_copies(mesh, scale), *devices.put_batch(mesh, (np.float32(numbers), more))
shared = jax.jit(devices.split_rows(rows, mesh))
found = jax.tree.map(devices.own_copy, shared(*arguments))
np.testing.assert_array_equal(found["sum"], numbers * 3 + more[:, None])
np.testing.assert_array_equal(found["half"], np.float32(numbers[:, :1] - more[:, None]))
assert found["half"].dtype == jnp.bfloat16 and len(found["sum"].devices()) == 1
assert shared.lower(*arguments).compile().as_text().count(" all-gather(") == 1

assert sharding.any_process(True) is True and sharding.any_process(False) is False
print("all of it")
"""


def test_eight_devices():
    """Catches parameters that every device keeps whole, a cut through an axis that does not
    divide, rows or values that change places, results that stay spread, and a collective for each
    result."""
    flags = "--xla_force_host_platform_device_count=8"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    program = [sys.executable, "-c", PROGRAM]
    run = subprocess.run(program, env=environment, capture_output=True, text=True)
    assert run.stdout == "all of it\n", run.stderr
