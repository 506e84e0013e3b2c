"""The pages: links lead somewhere, code references name the right line, commands exist.

    python tests/unit/test_docs.py --update    # corrects the line numbers, as `make format` does

A code reference is a link to a line and the symbol that the line defines:
[`anchor_jax/face/align.py:39`](../anchor_jax/face/align.py#L39) `estimate_transforms`.
"""

import ast
import dataclasses
import importlib.util
import inspect
import io
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout, suppress
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
REFERENCE = re.compile(r"\[`([\w/.]+\.py):(\d+)`\]\(([^)#]+)#L(\d+)\)\s`([\w.]+)`")
LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^)\s]+)\)")
FENCED = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`]+)`")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
FOREIGN = {"--output-alpha"}  # options of other people's programs
every_page = pytest.mark.parametrize("page", PAGES, ids=[str(p.relative_to(ROOT)) for p in PAGES])


def find_line(source: str, symbol: str) -> int | None:
    """The line that defines `symbol`, such as `generate` or `Face.size`, in a module's source."""
    body, line = ast.parse(source).body, None
    for part in symbol.split("."):
        node = next((n for n in body if part in _defined(n)), None)
        if node is None:
            return None
        body, line = getattr(node, "body", []), node.lineno
    return line


def _defined(node: ast.stmt) -> set[str]:
    """The names that a statement defines."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else []
    targets = [node.target] if isinstance(node, ast.AnnAssign) else targets
    return {n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)}


def update(text: str) -> str:
    """A page with the right line numbers where the symbol is still in the named file."""

    def correct(match: re.Match) -> str:
        path, _, href, _, symbol = match.groups()
        file = ROOT / path
        line = find_line(file.read_text("utf-8"), symbol) if file.is_file() else None
        if line is None:
            return match[0]
        return f"[`{path}:{line}`]({href}#L{line}) `{symbol}`"

    return REFERENCE.sub(correct, text)


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return FENCED.sub("", page.read_text("utf-8"))


@cache
def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in plain}


def broken_links(page: Path, text: str) -> list[str]:
    """Links inside the project that lead nowhere."""
    problems = []
    for target in LINK.findall(text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        if not file.exists():
            problems.append(f"{target}: no such file")
        elif anchor and file.suffix == ".md" and anchor not in anchors(file):
            problems.append(f"{target}: no such heading")
    return problems


def wrong_references(page: Path, text: str) -> list[str]:
    """Code references whose line does not define their symbol."""
    problems = []
    for path, line, href, href_line, symbol in REFERENCE.findall(text):
        file = ROOT / path
        if not file.is_file():
            problems.append(f"{path}: no such file")
            continue
        if (page.parent / href).resolve() != file or line != href_line:
            problems.append(f"{path}:{line}: the link leads to {href}#L{href_line}")
        right = find_line(file.read_text("utf-8"), symbol)
        if right is None:
            problems.append(f"{path} does not define {symbol}")
        elif right != int(line):
            problems.append(f"{symbol} is at {path}:{right}, not {line}")
    return problems


@every_page
def test_links_lead_somewhere(page: Path):
    """Catches a page, a picture or a heading that was renamed or removed."""
    assert not broken_links(page, prose(page))


@every_page
def test_code_references_name_the_line_that_defines_the_symbol(page: Path):
    """Catches code that has moved: run `python tests/unit/test_docs.py --update`."""
    assert not wrong_references(page, prose(page))


def test_the_checks_see_mistakes():
    """Catches checks that pass everything."""
    page = ROOT / "docs" / "method.md"
    assert len(REFERENCE.findall(page.read_text("utf-8"))) > 50
    assert broken_links(page, "[a](nowhere.md) [b](#no-such-heading)[c](generate.md#nor-this)")
    path, href = "anchor_jax/face/align.py", "../anchor_jax/face/align.py"
    right = update(f"[`{path}:1`]({href}#L1) `crop`")
    assert not wrong_references(page, right)
    assert wrong_references(page, right.replace("`crop`", "`warp`"))
    assert wrong_references(page, right.replace("#L", "#L1"))
    assert wrong_references(page, right.replace("`crop`", "`nothing`"))
    assert wrong_references(page, right.replace("align.py", "gone.py"))


def test_the_index_lists_every_page():
    """Catches a new page that no reader finds."""
    index = ROOT / "docs" / "README.md"
    linked = {(index.parent / target.partition("#")[0]).resolve() for target in LINK.findall(
        index.read_text("utf-8")
    )}  # fmt: skip
    assert not {page for page in ROOT.glob("docs/*.md") if page != index} - linked


def test_contributing_names_every_part():
    """Catches a new folder or module that CONTRIBUTING does not describe, and a page that grows."""
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    paths = [p for p in (ROOT / "anchor_jax").iterdir() if p.suffix == ".py" or p.is_dir()]
    names = {p.name for p in paths if not p.name.startswith("__")}
    parts = {f"{p.name}/" if p.is_dir() else p.name for p in paths if p.name in names}
    assert not {part for part in parts if part not in text}
    assert len(text.splitlines()) < 60


# Commands


def run_help(*words: str) -> str:
    """What `anchor-jax WORDS --help` prints."""
    from anchor_jax import cli

    with redirect_stdout(io.StringIO()) as out, suppress(SystemExit):
        cli.main([*words, "--help"])
    return out.getvalue()


@cache
def commands() -> set[str]:
    return set(re.findall(r"^  ([a-z]+) ", run_help(), re.MULTILINE))


@cache
def stages() -> set[str]:
    """What `anchor-jax train` trains."""
    listed = re.search(r"\{([\w,]+)\}", run_help("train"))
    assert listed is not None
    return set(listed[1].split(","))


@cache
def options(*words: str) -> frozenset[str]:
    """The options of a command, from the table that its help prints."""
    rows = re.findall(r"^[│|]? {1,2}(--?[a-z].*?)(?:  |$)", run_help(*words), re.MULTILINE)
    assert rows, words
    return frozenset(option for row in rows for option in OPTION.findall(row))


@cache
def all_options() -> frozenset[str]:
    """The options of every command, and of the programs in benchmarks/."""
    found: set[str] = set()
    for path in (ROOT / "benchmarks").rglob("*.py"):
        found |= set(re.findall(r'"(--[a-z][a-z-]*)"', path.read_text("utf-8")))
    for command in commands():
        for words in [(command, part) for part in parts(command)] or [(command,)]:
            found |= options(*words)
    return frozenset(found)


def parts(command: str) -> frozenset[str]:
    """The commands of a command: the stages of training, what can be planned, and studies."""
    known = {
        "train": stages(),
        "plan": frozenset({"generate", "train"}),
        "bench": frozenset({"settings", "windows", "faces"}),
    }
    return known.get(command, frozenset())


def command_lines(page: Path) -> Iterator[list[str]]:
    """The words of each command line, from fenced blocks and from code in the text."""
    for language, block in FENCED.findall(page.read_text("utf-8")):
        if language in {"", "sh"}:
            for line in block.replace("\\\n", " ").splitlines():
                yield shlex.split(line, comments=True)
    for span in SPAN.findall(prose(page)):
        if span.startswith(("anchor-jax ", "python -m ", "make ")):
            yield span.split()


def wrong_words(words: list[str]) -> list[str]:
    """What of a command line does not exist."""
    if "anchor-jax" in words:
        _, *rest = words[words.index("anchor-jax") :]
        if not rest or rest[0].startswith("-") or rest[0].isupper():
            return []
        name = rest[0]
        if name not in commands():
            return [f"no command {name}"]
        part = rest[1] if parts(name) and len(rest) > 1 else None
        if part is not None and not set(part.split("|")) <= parts(name):
            return [f"no {name} {part}"]
        if parts(name) and part is None:
            return []
        known = options(name) if part is None else options(name, part.split("|")[0])
        return [w for w in rest if w.startswith("--") and w.partition("=")[0] not in known]
    if words[:2] == ["python", "-m"] and words[2].split(".")[0] in {"benchmarks", "train"}:
        module = ROOT / words[2].replace(".", "/")
        if not (module.with_suffix(".py").is_file() or (module / "__main__.py").is_file()):
            return [f"no program {words[2]}"]
        return [w for w in words if w.startswith("--") and w.partition("=")[0] not in all_options()]
    if words[:1] == ["make"]:
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
        return [w for w in words[1:2] if w not in targets]
    return []


@every_page
def test_commands_exist(page: Path):
    """Catches a command, a program or an option that was renamed or removed."""
    wrong = {
        " ".join(words): found for words in command_lines(page) if (found := wrong_words(words))
    }
    assert not {line: found for line, found in wrong.items() if found}
    spans = [span for span in SPAN.findall(prose(page)) if not span.startswith("anchor-jax ")]
    named = {option for span in spans for option in OPTION.findall(span)}
    if page.name != "CHANGELOG.md":  # which also tells of options that are gone
        assert not named - all_options() - FOREIGN


def test_the_command_check_sees_mistakes():
    """Catches a check that passes everything."""
    assert not wrong_words(["anchor-jax", "generate", "seth", "--poses", "p", "--no-face"])
    assert wrong_words(["anchor-jax", "generate", "seth", "--pose", "p"])
    assert wrong_words(["anchor-jax", "paint"])
    assert wrong_words(["anchor-jax", "train", "hands"])
    assert wrong_words(["anchor-jax", "train", "face", "--crossfade"])
    assert wrong_words(["python", "-m", "benchmarks.nothing"])
    assert wrong_words(["make", "coffee"])
    every = "".join(page.read_text("utf-8") for page in PAGES)
    assert all(option in every for option in FOREIGN), "FOREIGN names an option of no page"


def _options(command: Any) -> set[str]:
    """The names of a command's options, those of its groups of options included."""
    names = set()
    for item in dataclasses.fields(command):
        group: Any = item.default_factory  # the class of a group of options
        names |= _options(group) if dataclasses.is_dataclass(group) else {item.name}
    return names


def test_the_library_page_lists_what_the_command_alone_has():
    """Catches an option of `anchor-jax generate` of which the page does not say how it is done in
    Python, and a keyword of `anchor_jax.generate` that it does not list."""
    import anchor_jax
    from anchor_jax.cli.generate import Generate

    text = (ROOT / "docs" / "library.md").read_text("utf-8")
    parameters = inspect.signature(anchor_jax.generate).parameters.values()
    keywords = {item.name for item in parameters if item.kind is item.KEYWORD_ONLY}
    assert {name for name in keywords if f"`{name}`" not in text} == set()
    explained = {
        option[2:].replace("-", "_")
        for line in text.splitlines()
        if line.startswith("| `--")
        for option in OPTION.findall(line.split("|")[1])
    }
    # `face` is an array here and a switch there.
    alone = _options(Generate) - {"anchor"} - (keywords - {"face"})
    assert {name for name in alone if not {name, f"no_{name}"} & explained} == set()


@every_page
def test_examples_in_python_name_what_is_there(page: Path):
    """Catches an import or a name of `anchor_jax` in an example that does not exist."""
    missing = []
    for language, block in FENCED.findall(page.read_text("utf-8")):
        if language != "python":
            continue
        for node in ast.walk(ast.parse(block)):
            names: list[tuple[str, str]] = []
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("anchor_jax"):
                names = [(str(node.module), alias.name) for alias in node.names]
            elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "anchor_jax":
                names = [("anchor_jax", node.attr)]
            for module, name in names:
                if not hasattr(importlib.import_module(module), name) and not _is_module(
                    f"{module}.{name}"
                ):
                    missing.append(f"{module}.{name}")
    assert not missing


def _is_module(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


if __name__ == "__main__" and sys.argv[1:] == ["--update"]:
    for file in PAGES:
        before = file.read_text("utf-8")
        if (after := update(before)) != before:
            file.write_text(after, "utf-8")
            print(f"{file.relative_to(ROOT)}: updated")
