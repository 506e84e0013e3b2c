"""Who may import whom, read from the source (DESIGN: "the house")."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# The rooms of the package, each with the rooms it may import. Inside a room everything goes.
GROUND = {
    *(
        "compiling",
        "devices",
        "errors",
        "files",
        "memory",
        "pages",
        "processes",
        "progress",
        "shapes",
        "threads",
    ),
    *("times", "unpickle", "versions"),
}
MAY_IMPORT: dict[str, set[str]] = {
    **{name: set() for name in GROUND},
    "__init__": {"checkpoint", "generation", "poses", "studies"},
    "assets": set(),
    "models": set(),
    "diffusion": set(),
    "body": set(),
    "face": set(),
    "data": set(),
    "evaluation": {"face"},
    "checkpoint": {"assets", "models", "diffusion", "face", "data", "poses"},
    "poses": {"body", "data", "face"},
    "generation": {"checkpoint", "diffusion", "face", "models"},
    "training": {"diffusion", "models"},
    "planning": {"checkpoint", "diffusion", "generation", "models"},
    "studies": {
        *("assets", "checkpoint", "data", "diffusion", "evaluation", "face", "generation"),
        *("planning", "poses"),
    },
    "demo": {"assets", "body", "checkpoint", "data", "poses", "studies"},
    "convert": {"assets", "checkpoint", "models", "diffusion"},
    "train": {
        *("checkpoint", "models", "diffusion", "data", "training", "face", "evaluation"),
        *("generation", "planning", "poses"),
    },
}
MAY_IMPORT["cli"] = {*MAY_IMPORT} - {"__init__"}
ORACLES = {"torch", "diffusers", "transformers"}  # named so because tests hold us against them


def imported(tree: ast.AST, depth: int = 0) -> Iterator[tuple[str, int, int]]:
    """Every absolute module that `tree` imports, its line, and how many functions it is inside."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno, depth) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            # `from anchor_jax import models` names a part in the alias; other modules do not matter
            use = names if node.module == "anchor_jax" else [node.module]
            yield from ((str(name), node.lineno, depth) for name in use)
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from imported(node, depth + inside)


def violations(part: str, source: str) -> list[str]:
    """The imports in `source`, a file of `part`, that the house rules forbid."""
    problems = []
    for module, line, depth in imported(ast.parse(source)):
        top, *rest = module.split(".")
        if top in ORACLES and not (part == "convert" and top == "torch" and depth):
            problems.append(f"{line}: {part} imports {top}")
        elif top in {"train", "convert", "benchmarks", "tests"}:
            problems.append(f"{line}: {part} imports {top} by its folder name")
        elif top == "anchor_jax" and rest:
            target = rest[0]
            if target not in MAY_IMPORT:
                continue  # a public name of the package itself
            if target != part and target not in GROUND | MAY_IMPORT[part]:
                problems.append(f"{line}: {part} imports {target}")
            elif part == "cli" and target in {"train", "convert"} and not depth:
                problems.append(f"{line}: cli imports {target} outside a function")
    return problems


def used(part: str, source: str) -> set[str]:
    """The other rooms that `source`, a file of `part`, imports."""
    modules = [module.split(".") for module, _, _ in imported(ast.parse(source))]
    rooms = {rest[0] for top, *rest in modules if top == "anchor_jax" and rest}
    return rooms & set(MAY_IMPORT) - {part}


def circles(graph: dict[str, set[str]]) -> list[str]:
    """The rooms that are left when those without a way down are taken away, again and again."""
    left = dict(graph)
    while free := [room for room, below in left.items() if not below & set(left)]:
        for room in free:
            del left[room]
    return sorted(left)


def sources() -> Iterator[tuple[str, Path]]:
    """Each source file of the package with the part it belongs to."""
    for path in sorted((ROOT / "anchor_jax").rglob("*.py")):
        yield path.relative_to(ROOT / "anchor_jax").parts[0].removesuffix(".py"), path
    for folder in ("convert", "train"):
        yield from ((folder, path) for path in sorted((ROOT / folder).rglob("*.py")))


def test_nobody_imports_what_the_house_rules_forbid():
    """Catches a torch import in the library and a part that reaches for one above or beside it."""
    files = list(sources())
    assert len(files) > 5
    unknown = {part for part, _ in files} - set(MAY_IMPORT)
    assert not unknown, f"say in MAY_IMPORT what these may import: {sorted(unknown)}"
    problems = [
        f"{path.relative_to(ROOT)}:{problem}"
        for part, path in files
        for problem in violations(part, path.read_text(encoding="utf-8"))
    ]
    assert not problems, "\n".join(problems)


def test_every_permission_is_used():
    """Catches a permission that outlives its import: the next one to use it would go unseen."""
    uses: dict[str, set[str]] = {part: set() for part in MAY_IMPORT}
    for part, path in sources():
        uses[part] |= used(part, path.read_text(encoding="utf-8"))
    unused = {
        part: sorted(rooms - uses[part])
        for part, rooms in MAY_IMPORT.items()
        if part != "cli" and rooms - uses[part]
    }
    assert not unused, f"take these out of MAY_IMPORT: {unused}"


def test_imports_go_down_only():
    """Catches rooms that import each other, also in a circle, and a ground that needs a room."""
    assert not circles(MAY_IMPORT)
    assert all(not MAY_IMPORT[room] for room in GROUND)
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("part", "source"),
    [
        ("models", "import torch"),
        ("models", "def f():\n  import torch.nn"),
        ("models", "from anchor_jax.diffusion.ddim import step"),
        ("diffusion", "from anchor_jax import models"),
        ("data", "import anchor_jax.models.unet"),
        ("generation", "def f():\n  from anchor_jax.convert import convert"),
        ("cli", "from anchor_jax.convert import convert"),
        ("convert", "import torch"),
        ("convert", "def f():\n  from transformers import CLIPModel"),
        ("train", "import convert.names"),
        ("train", "from anchor_jax.convert import names"),
    ],
)
def test_the_checker_sees_a_violation(part: str, source: str):
    """Catches a checker that passes everything."""
    assert violations(part, source)


@pytest.mark.parametrize(
    ("part", "source"),
    [
        ("models", "import flax.linen as nn\nfrom anchor_jax.shapes import Latents"),
        ("convert", "def f():\n  import torch"),
        ("cli", "def f():\n  from anchor_jax.convert import convert"),
        ("generation", "from anchor_jax.models import UNet\nfrom anchor_jax import AnchorError"),
    ],
)
def test_the_checker_lets_good_imports_pass(part: str, source: str):
    """Catches a checker that refuses everything."""
    assert not violations(part, source)
