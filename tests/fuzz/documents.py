"""Documents with something wrong: JSON and YAML whose parts are replaced, doubled, lost or nested."""

from __future__ import annotations

import json
from random import Random
from typing import Any

# Levels of nesting; Python's own reader gives up at about 1,000, C's at more.
DEPTHS = (10, 70, 1_000, 20_000)
HUGE_STRING = 100_000


class Raw(str):
    """Text that stands in the document as it is: what no value of Python writes."""


class Pairs(list[tuple[Any, Any]]):
    """A mapping that may have a key twice."""


JSON_VALUES = [
    *("null", "true", "false", "0", "-0", "-1", "1", "1.5", "-0.0", "1e-320", "1e308", "2e9"),
    *("2147483648", "1000000000", "1000000000000", "18446744073709551616", "-9223372036854775809"),
    *("1e400", "-1e400", "9" * 400, "-" + "9" * 400, "9" * 5_000, "NaN", "Infinity", "-Infinity"),
    *('""', '"text"', '"1"', '"-1"', '"1e400"', '"nan"', '"null"', '" "', '"../../x"', '"hf:x"'),
    *(r'"\ud800"', r'"a\u0000b"', r'"\u001b[2J"', r'"\u2028"', '"é"', r'"a\nb\r\nc"', '"%s {} $x"'),
    *("[]", "{}", "[1, 2]", "[null]", "[[]]", '{"a": 1}', '{"": null}', '[{"a": []}]'),
    f'"{"x" * HUGE_STRING}"',
    f"[{', '.join(['1'] * 10_000)}]",
]

YAML_VALUES = [
    *JSON_VALUES,
    *(".nan", ".inf", "-.inf", "0x10", "010", "0o10", "1_000", "1:30", "2001-01-01", "~", "yes"),
    *(
        "=",
        "<<",
        "*nothing",
        "&a [*a]",
        "&a {a: *a}",
        "!!binary aGk=",
        "!!binary '?'",
        "!!set {a, b}",
    ),
    *("!!float x", "!!int x", "!!int ''", "!!bool x", "!!timestamp x", "!!omap [a: 1]", "!!str 1"),
    *("!!python/object:os.system x", "!!python/object/apply:os.system ['true']", "!unknown 1"),
    *(
        "{<<: {a: 1}}",
        "{<<: [{a: 1}, {b: 2}]}",
        "{<<: 1}",
        "{? [a] : b}",
        "{? {a: 1} : b}",
        "[a, b",
    ),
    *("{1: 2}", "{null: 1}", "{true: 1}", "{1.5: 1}", "'a' 'b'", "@x", "`x`", "%x", "- 1", "a: b"),
]

# Nine levels of nine: a billion values where a reader writes them out.
LAUGHS = "l0: &l0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]\n" for i in range(1, 10)
)


def tree_of(value: Any) -> Any:
    """Plain data with its mappings as `Pairs`."""
    if isinstance(value, dict):
        return Pairs((key, tree_of(part)) for key, part in value.items())
    if isinstance(value, list | tuple):
        return [tree_of(part) for part in value]
    return value


def as_json(tree: Any) -> str:
    """The tree as JSON, but for what `Raw` writes."""
    if isinstance(tree, Raw):
        return tree
    if isinstance(tree, Pairs):
        return "{" + ", ".join(f"{_key(key)}: {as_json(part)}" for key, part in tree) + "}"
    if isinstance(tree, list):
        return "[" + ", ".join(map(as_json, tree)) + "]"
    return json.dumps(tree)


def as_yaml(tree: Any) -> str:
    """The tree as YAML: a line a key of the upper two levels, the rest as JSON."""
    if not isinstance(tree, Pairs):
        return as_json(tree) + "\n"
    lines = []
    for key, part in tree:
        if isinstance(part, Pairs) and part:
            lines += [f"{_key(key)}:", *(f"  {_key(k)}: {as_json(p)}" for k, p in part)]
        else:
            lines.append(f"{_key(key)}: {as_json(part)}")
    return "\n".join(lines) + "\n"


def damaged_json(random: Random, tree: Any) -> str:
    """JSON with one to four faults."""
    return as_json(_damaged(random, tree, JSON_VALUES))


def damaged_yaml(random: Random, tree: Any) -> str:
    """YAML with one to four faults, aliases and tags among them."""
    text = as_yaml(_damaged(random, tree, YAML_VALUES))
    odd = random.random()
    if odd < 0.03:
        return LAUGHS + text
    if odd < 0.06:
        return LAUGHS + text.replace(": ", ": *l9 #", 1)
    if odd < 0.08:
        return text + random.choice(["---\n", "...\n", "--- 1\n", "%YAML 9.9\n", "\t\n", "- 1\n"])
    return text


def _damaged(random: Random, tree: Any, values: list[str]) -> Any:
    copy = tree_of_copy(tree)
    for _ in range(random.choice((1, 1, 1, 2, 3, 4))):
        copy = _with_fault(random, copy, values)
    return copy


def tree_of_copy(tree: Any) -> Any:
    """A copy whose parts can be changed."""
    if isinstance(tree, Pairs):
        return Pairs((key, tree_of_copy(part)) for key, part in tree)
    if isinstance(tree, list):
        return [tree_of_copy(part) for part in tree]
    return tree


def _with_fault(random: Random, tree: Any, values: list[str]) -> Any:
    if not isinstance(tree, list) or not tree or random.random() < 0.02:
        return _odd(random, tree, values)
    holder = tree
    while True:
        place = random.randrange(len(holder))
        part = holder[place][1] if isinstance(holder, Pairs) else holder[place]
        # Near the top as often as deep down, however many parts there are.
        if not isinstance(part, list) or not part or random.random() < 0.25:
            break
        holder = part
    if isinstance(holder, Pairs):
        _break_pair(random, holder, place, values)
    else:
        _break_item(random, holder, place, values)
    return tree


def _break_pair(random: Random, holder: Pairs, place: int, values: list[str]) -> None:
    key, part = holder[place]
    match random.choice(("value",) * 6 + ("lost", "double", "more", "key", "swap")):
        case "value":
            holder[place] = (key, _odd(random, part, values))
        case "lost":
            del holder[place]
        case "double":
            holder.append((key, random.choice([part, Raw(random.choice(values))])))
        case "more":
            holder.append((f"{key}x", part))
        case "key":
            holder[place] = (_odd_key(random, values), part)
        case "swap":
            other = random.randrange(len(holder))
            holder[place] = (key, holder[other][1])
            holder[other] = (holder[other][0], part)


def _break_item(random: Random, holder: list[Any], place: int, values: list[str]) -> None:
    match random.choice(("value",) * 4 + ("lost", "double", "many")):
        case "value":
            holder[place] = _odd(random, holder[place], values)
        case "lost":
            del holder[place]
        case "double":
            holder.insert(place, holder[place])
        case "many":
            holder[:] = holder[: max(1, 20_000 // len(as_json(holder)))] * 100


def _odd(random: Random, part: Any, values: list[str]) -> Any:
    """Another value in the place of `part`: of its own kind changed, or of any."""
    number = isinstance(part, int | float) and not isinstance(part, bool)
    match random.choice(("any",) * 6 + ("deep", "kind", "kind", "wrapped")):
        case "deep":
            depth = random.choice(DEPTHS)
            return Raw(
                random.choice(["[" * depth + "]" * depth, '{"a": ' * depth + "1" + "}" * depth])
            )
        case "kind" if number:
            return random.choice(
                [-part, part * 1000, str(part), bool(part), Raw(f"{part}e3"), part + 0.5]
            )
        case "kind" if isinstance(part, str):
            return random.choice(["", part * 2, part.upper(), [part], part[:-1], part + "\0"])
        case "kind" if isinstance(part, Pairs):
            return random.choice(
                [[value for _, value in part], [], Pairs(), [[k, v] for k, v in part]]
            )
        case "kind" if isinstance(part, list):
            return random.choice([Pairs(enumerate(part)), [], [part], part * 2, part[:-1]])
        case "wrapped":
            return random.choice([[part], Pairs([("a", part)])])
    return Raw(random.choice(values))


def _odd_key(random: Random, values: list[str]) -> Any:
    # JSON has text for keys alone; a YAML key can be anything.
    return random.choice(
        ["", "a.b", "é", "x" * 2_000, "\0", "\ud800", "__class__", "1", Raw(random.choice(values))]
    )


def _key(key: Any) -> str:
    return key if isinstance(key, Raw) else json.dumps(str(key))
