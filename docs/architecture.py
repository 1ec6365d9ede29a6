"""Draw docs/pictures/architecture.svg from the package's own imports: `python docs/architecture.py` (or `make docs`).

A box is a room (a folder of the package), on its floor of setup.cfg; an arrow says that a room imports another, and
has that one's colour. Arrows to one room share their way past the floors between. The order on a floor is the
barycentre's, places are those that bend the arrows least: nothing is placed by hand. Sizes are rounded, so that a
small change of code does not change the picture.
"""

from __future__ import annotations

import argparse
import configparser
import re
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from math import gcd
from pathlib import Path

import grimp

HERE = Path(__file__).resolve().parent
PACKAGE = HERE.parent / "offline_marl"
PICTURE = HERE / "pictures" / "architecture.svg"

BOX, HIGH, GAP, RISE, EDGE = 158, 52, 18, 62, 24
"""Pixels: a box's width and height, between neighbours, between floors, around all."""
LANE = 12
"""Pixels of an arrow that passes a floor."""
ROUNDS = 40

Way = tuple[str, str]
"""A room and one that it imports."""


@dataclass
class Node:
    """A room, or the lane on which arrows to a room pass another's floor."""

    room: str
    floor: int
    lane: bool
    x: float = 0.0
    above: list[Node] = field(default_factory=list)
    below: list[Node] = field(default_factory=list)

    @property
    def width(self) -> int:
        return LANE if self.lane else BOX


def floors() -> list[list[str]]:
    """The rooms of each floor that exist, from the top, as setup.cfg has them."""
    rules = configparser.ConfigParser()
    rules.read(HERE.parent / "setup.cfg")
    layers = rules["importlinter:contract:floors"]["layers"].split("\n")
    named = [re.findall(rf"{PACKAGE.name}\.(\w+)", layer) for layer in layers]
    found = [[room for room in rooms if (PACKAGE / room).is_dir()] for rooms in named]
    return [rooms for rooms in found if rooms]


def arrows(rooms: set[str]) -> list[Way]:
    """Which room imports which."""
    sys.path.insert(0, str(PACKAGE.parent))  # this tree, whatever is installed
    try:
        graph = grimp.build_graph(PACKAGE.name, cache_dir=None)
    finally:
        sys.path.pop(0)
    found = set()
    for module in graph.modules:
        for other in graph.find_modules_directly_imported_by(module):
            pair = (*module.split(".")[1:2], *other.split(".")[1:2])
            if len(pair) == 2 and pair[0] != pair[1] and rooms.issuperset(pair):
                found.add(pair)
    return sorted(found)


def size(room: str) -> tuple[int, int]:
    """Python files and their lines, to two digits."""
    files = list((PACKAGE / room).rglob("*.py"))
    lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files)
    return len(files), round(lines, 2 - len(str(lines)))


def laid_out(levels: list[list[str]], ways: list[Way]) -> tuple[list[list[Node]], dict[Way, list[Node]]]:
    """Every node in its place, and the nodes that each arrow passes, from its room down."""
    rooms = {room: Node(room, floor, False) for floor, names in enumerate(levels) for room in names}
    lanes: dict[tuple[str, int], Node] = {}
    paths: dict[Way, list[Node]] = {}
    for importer, imported in ways:
        first, last = rooms[importer], rooms[imported]
        if last.floor <= first.floor:
            raise SystemExit(f"{importer} imports {imported}, which is not below it: see `make check`.")
        between = range(first.floor + 1, last.floor)
        passed = [lanes.setdefault((imported, floor), Node(imported, floor, True)) for floor in between]
        paths[importer, imported] = [first, *passed, last]
    for path in paths.values():
        for one, other in pairwise(path):
            if other not in one.below:
                one.below.append(other)
                other.above.append(one)
    rows: list[list[Node]] = [[] for _ in levels]
    for node in [*rooms.values(), *lanes.values()]:
        rows[node.floor].append(node)
    order(rows)
    place(rows)
    return rows, paths


def order(rows: list[list[Node]]) -> None:
    """Sort each floor by where its neighbours stand, down and up again; the order with the fewest crossings stays."""
    best, fewest = [list(row) for row in rows], crossings(rows)
    for turn in range(ROUNDS):
        down = turn % 2 == 0
        for row in rows if down else reversed(rows):
            at = {id(node): place for other in rows for place, node in enumerate(other)}
            means = {}
            for node in row:
                near = node.above if down else node.below
                means[id(node)] = sum(at[id(each)] for each in near) / len(near) if near else at[id(node)]
            row.sort(key=lambda node: means[id(node)])
        if crossings(rows) < fewest:
            best, fewest = [list(row) for row in rows], crossings(rows)
    rows[:] = best


def crossings(rows: list[list[Node]]) -> int:
    """How often two arrows cross between floors, those that share their way counted once."""
    total = 0
    for upper, lower in pairwise(rows):
        at = {id(node): place for place, node in enumerate(lower)}
        ends = [(place, at[id(each)]) for place, node in enumerate(upper) for each in node.below]
        total += sum(a < c and b > d for a, b in ends for c, d in ends)
    return total


def place(rows: list[list[Node]]) -> None:
    """Give every node the place that bends its arrows least, its order kept."""
    for row in rows:
        for node, x in zip(row, offsets(row), strict=True):
            node.x = x - offsets(row)[-1] / 2
    for _ in range(ROUNDS):
        for row in [*rows, *reversed(rows)]:
            wanted = [pull(node) for node in row]
            for node, x in zip(row, settled(wanted, offsets(row)), strict=True):
                node.x = x
    left = min(node.x - node.width / 2 for row in rows for node in row)
    for row in rows:
        for node in row:
            node.x += EDGE - left


def pull(node: Node) -> tuple[float, float]:
    """Where a node's neighbours would have it, and how strongly: lanes want to be straight."""
    near = [*node.above, *node.below]
    strength = [8.0 if node.lane and each.lane else 1.0 for each in near]
    total = sum(strength)
    if not near:
        return node.x, 1.0
    return sum(each.x * pulls for each, pulls in zip(near, strength, strict=True)) / total, total


def offsets(row: list[Node]) -> list[float]:
    """The nearest to each other that the centres of a floor can stand."""
    found = [0.0]
    for one, other in pairwise(row):
        found.append(found[-1] + (one.width + other.width) / 2 + (GAP if one.lane and other.lane else 1.4 * GAP))
    return found


def settled(wanted: list[tuple[float, float]], least: list[float]) -> list[float]:
    """The places nearest to the wanted ones, by least squares, that keep the order and the distances."""
    blocks: list[tuple[float, float, int]] = []
    for (x, weight), offset in zip(wanted, least, strict=True):
        block = (x - offset, weight, 1)
        while blocks and blocks[-1][0] > block[0]:
            mean, heavy, count = blocks.pop()
            weights = heavy + block[1]
            block = ((mean * heavy + block[0] * block[1]) / weights, weights, count + block[2])
        blocks.append(block)
    flat = [mean for mean, _, count in blocks for _ in range(count)]
    return [mean + offset for mean, offset in zip(flat, least, strict=True)]


def top(node: Node) -> int:
    return EDGE + node.floor * (HIGH + RISE)


def ports(rows: list[list[Node]]) -> tuple[dict[tuple[int, int], float], dict[tuple[int, int], float]]:
    """Where each piece of an arrow leaves the node above and reaches the one below."""
    leave, reach = {}, {}
    for node in (node for row in rows for node in row):
        for near, found, inward in ((node.below, leave, False), (node.above, reach, True)):
            ordered = sorted(near, key=lambda each: each.x)
            step = min(30.0, 0.8 * BOX / max(1, len(ordered)))
            for number, each in enumerate(ordered):
                x = node.x + (0.0 if node.lane else step * (number - (len(ordered) - 1) / 2))
                found[(id(each), id(node)) if inward else (id(node), id(each))] = x
    return leave, reach


def path_of(nodes: list[Node], leave: dict[tuple[int, int], float], reach: dict[tuple[int, int], float]) -> str:
    """An arrow's line: down from floor to floor, straight past the nodes between."""
    parts = []
    for one, other in pairwise(nodes):
        (x0, y0), (x1, y1) = (leave[id(one), id(other)], top(one) + HIGH), (reach[id(one), id(other)], top(other))
        y1 -= 0 if other.lane else 7  # the arrow's head
        middle = (y0 + y1) / 2
        parts.append(
            f"{'L' if parts else 'M'}{x0:.0f} {y0:.0f}C{x0:.0f} {middle:.0f} {x1:.0f} {middle:.0f} {x1:.0f} {y1:.0f}"
        )
    return "".join(parts)


STYLE = """
.paper { fill: #ffffff } .floor { fill: #f3f4f6 } .room { fill: #ffffff; stroke-width: 2 }
text { fill: #1f2430; font: 12px system-ui, "Segoe UI", Helvetica, Arial, sans-serif; text-anchor: middle }
text.name { font-size: 15px; font-weight: 600 } path { fill: none; stroke-width: 1.6 }
@media (prefers-color-scheme: dark) {
  .paper { fill: #0d1117 } .floor { fill: #171c24 } .room { fill: #0d1117 } text { fill: #e6e9ef }
}
"""


def colours(rooms: list[str]) -> str:
    """A hue for each room, far from those of the rooms beside it; lighter on a dark ground."""
    rules, dark = [], []
    step = next(each for each in (3, 4, 5, 7) if gcd(each, len(rooms)) == 1)
    for number, room in enumerate(rooms):
        hue = round(210 + 360 * step * number / len(rooms)) % 360
        for place, light in ((rules, 38), (dark, 66)):
            paint = f"hsl({hue}, 62%, {light}%)"
            place.append(f".{room} {{ stroke: {paint} }} .{room}-head {{ fill: {paint} }}")
    return "\n".join([*rules, "@media (prefers-color-scheme: dark) {", *dark, "}"])


def svg() -> str:
    """The picture."""
    levels = floors()
    rooms = [room for level in levels for room in level]
    ways = arrows(set(rooms))
    rows, paths = laid_out(levels, ways)
    leave, reach = ports(rows)
    width = round(max(node.x + node.width / 2 for row in rows for node in row) + EDGE)
    high = 2 * EDGE + len(rows) * HIGH + (len(rows) - 1) * RISE
    frame = f'viewBox="0 0 {width} {high}" width="{width}" height="{high}"'
    said = "; ".join(f"{a} imports {', '.join(sorted(b for c, b in ways if c == a))}" for a in rooms if a in dict(ways))
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {frame} role="img">',
        f"<title>The rooms of {PACKAGE.name} and who imports whom</title>",
        f"<desc>From the top floor down: {' / '.join(', '.join(level) for level in levels)}. {said}.</desc>",
        f"<style>{STYLE}{colours(rooms)}\n</style>",
        f'<rect class="paper" width="{width}" height="{high}" rx="10"/>',
    ]
    for floor in range(len(rows)):
        y = EDGE + floor * (HIGH + RISE) - 10
        lines.append(f'<rect class="floor" x="8" y="{y}" width="{width - 16}" height="{HIGH + 20}" rx="8"/>')
    for (importer, imported), nodes in paths.items():
        line = path_of(nodes, leave, reach)
        lines.append(f'<path class="{imported}" data-from="{importer}" data-to="{imported}" d="{line}"/>')
    heads = defaultdict(set)
    for nodes in paths.values():
        heads[nodes[-1].room].add((round(reach[id(nodes[-2]), id(nodes[-1])]), top(nodes[-1])))
    for room, places in heads.items():
        for x, y in sorted(places):
            lines.append(f'<polygon class="{room}-head" points="{x},{y} {x - 4},{y - 8} {x + 4},{y - 8}"/>')
    for node in (node for row in rows for node in row if not node.lane):
        lines += box(node)
    return "\n".join([*lines, "</svg>", ""])


def box(node: Node) -> list[str]:
    files, count = size(node.room)
    x, y = round(node.x), top(node)
    return [
        f'<rect class="room {node.room}" x="{x - BOX // 2}" y="{y}" width="{BOX}" height="{HIGH}" rx="6"/>',
        f'<text class="name" x="{x}" y="{y + 22}">{node.room}</text>',
        f'<text x="{x}" y="{y + 40}" data-size="{node.room}">{files} files, {count:,} lines</text>',
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=PICTURE)
    out = parser.parse_args().out
    out.write_text(svg(), encoding="utf-8")
    print(f"architecture in {out}")


if __name__ == "__main__":
    main()
