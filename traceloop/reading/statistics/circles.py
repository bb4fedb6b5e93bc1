"""Circles in "waits for": the strongly connected parts of a graph, in time proportional to its edges."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


def circles(awaited: Mapping[float, Iterable[float]]) -> list[list[float]]:
    """The nodes that wait for themselves, directly or through others: one list for each connected circle.

    ``awaited``: the nodes that each node waits for. A node that is not a key waits for none.
    """
    # Most nodes wait only for nodes that wait for none. What is left after this one pass is usually nothing.
    edges: dict[float, list[float]] = {}
    for node, others in awaited.items():
        waiting = [other for other in others if other in awaited]
        if waiting:
            edges[node] = waiting
    # Tarjan's strongly connected components, without recursion: a chain of tasks can be as long as there are tasks.
    order: dict[float, int] = {}
    lowest: dict[float, int] = {}
    path: list[float] = []
    on_path: set[float] = set()
    found: list[list[float]] = []
    for root in edges:
        if root in order:
            continue
        work: list[tuple[float, int]] = [(root, 0)]
        while work:
            node, position = work.pop()
            others = edges.get(node, [])
            if position == 0:
                order[node] = lowest[node] = len(order)
                path.append(node)
                on_path.add(node)
            else:
                lowest[node] = min(lowest[node], lowest[others[position - 1]])
            while position < len(others):
                other = others[position]
                position += 1
                if other not in order:
                    work.append((node, position))
                    work.append((other, 0))
                    break
                if other in on_path:
                    lowest[node] = min(lowest[node], order[other])
            else:
                if lowest[node] == order[node]:
                    members: list[float] = []
                    while not members or members[-1] != node:
                        members.append(path.pop())
                        on_path.discard(members[-1])
                    if len(members) > 1 or node in others:
                        found.append(members)
    return found
