"""Finds the place in the files at which a field of a document stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from kat_platform.quadlet.problem import Location
from kat_platform.quadlet.tree import Node

FieldPath = Sequence[str | int]


def find(root: Node, path: FieldPath) -> Node | None:
    """Give the node of the value at a path; ``None`` where the document does not have it."""
    node = root
    for part in path:
        if node.kind == "mapping" and isinstance(part, str) and part in node.entries:
            node = node.entries[part][1]
        elif node.kind == "list" and isinstance(part, int) and part < len(node.items):
            node = node.items[part]
        else:
            return None
    return node


def place(root: Node, path: FieldPath) -> Location:
    """Give the place of the value at a path, or of the innermost mapping or list that is there."""
    node = root
    for end in range(1, len(path) + 1):
        found = find(root, path[:end])
        if found is None:
            break
        node = found
    return node.location


def place_of_key(root: Node, path: FieldPath) -> Location:
    """Give the place of the key that ends a path, or where there is none, of the innermost node that is there."""
    parent = find(root, path[:-1]) if path else None
    if parent is not None and parent.kind == "mapping" and isinstance(path[-1], str) and path[-1] in parent.entries:
        return parent.entries[path[-1]][0].location
    return place(root, path)


@dataclass(frozen=True, slots=True)
class Locations:
    """Where each document of a Quadlet stands, by kind and name."""

    roots: dict[tuple[str, str], Node] = field(default_factory=dict)

    def locate(self, kind: str, name: str, path: FieldPath = ()) -> Location:
        """Give the place of a field of a document; ``("", 1, 1)`` for a document that was not read from a file."""
        root = self.roots.get((kind, name))
        return Location("", 1, 1) if root is None else place(root, path)
