"""Read configs from untrusted JSON: the type and range of every value are checked."""

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from anchor_jax.errors import AnchorError, first_line
from anchor_jax.models import NetworkConfig


def parse_config(cls: type, values: Any, where: str, problems: list[str]) -> Any:
    """Make a config dataclass from JSON; each value must have the type of the field's default.

    Args:
        cls: the dataclass, whose fields all have defaults.
        values: the JSON value.
        where: how `problems` name the value.
        problems: receives one line for each mistake.

    Returns:
        The config. A wrong value has its default.
    """
    if not isinstance(values, dict):
        problems.append(f"{where} is not an object")
        return cls()
    defaults = {item.name: item.default for item in fields(cls)}
    problems += [
        f"{where} has an unknown entry {key!r}" for key in sorted(set(values) - set(defaults))
    ]
    arguments = {}
    for key, default in defaults.items():
        value = values.get(key)
        if isinstance(default, tuple) and isinstance(value, list) and 1 <= len(value) <= 8:
            value = tuple(value)
        # Tracing takes time for each layer, so a damaged file must not ask for a million layers.
        few = not key.startswith(("num_layers", "layers_")) or value in range(257)
        if few and _alike(value, default):
            arguments[key] = value
        else:
            problems.append(f"{where}.{key} is {brief(value)}, expected something like {default}")
    try:
        return cls(**arguments)
    except (ValueError, AnchorError) as error:
        problems.append(f"{where}: {first_line(error)}")
        return cls()


def _alike(value: Any, default: Any) -> bool:
    if isinstance(default, tuple):
        return isinstance(value, tuple) and all(_alike(item, default[0]) for item in value)
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    if isinstance(default, int):
        return isinstance(value, int) and 0 <= value < 1 << 20
    if isinstance(default, float):
        return isinstance(value, int | float) and abs(value) < 1e6
    return isinstance(value, type(default))


def invalid_configs(networks: Mapping[str, NetworkConfig]) -> list[str]:
    """List values that no network can have: zeros, and widths that heads or norm groups do not
    divide."""
    problems = []
    for name, config in networks.items():
        zero = [key for key, value in asdict(config).items() if _has_zero(value)]
        problems += [f"{name}.{key} is zero or has a zero" for key in zero]
        widths = getattr(config, "channels", (getattr(config, "width", 0),))
        for key in {"num_heads", "norm_groups"} - set(zero):
            divisor = getattr(config, key, 1)
            if any(width % divisor for width in widths):
                problems.append(f"{name}: {key}={divisor} does not divide {brief(widths)}")
    return problems


def brief(value: Any) -> str:
    """Format a value for a message, in at most 60 printable characters."""
    text = "/".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return printable(text)[:60]


def printable(value: Any) -> str:
    """Format a value from a file, with `?` for characters that could control the terminal."""
    text = value if isinstance(value, str) else json.dumps(value)
    return "".join(c if c.isprintable() else "?" for c in text)


def _has_zero(value: Any) -> bool:
    return (
        value == 0
        if isinstance(value, int | float)
        else any(type(x) is int and not x for x in value)
    )
