"""Builds a flat graph node by node; every result's shape comes from the op table's own rules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edge.runtime.check import infer
from edge.runtime.graph import FloatArray, Graph, Node, Shape


class Builder:
    def __init__(self) -> None:
        self._inputs: list[str] = []
        self._nodes: list[Node] = []
        self._constants: dict[str, FloatArray] = {}
        self._shapes: dict[str, Shape] = {}

    def input(self, name: str, shape: Shape) -> str:
        if name in self._shapes:
            raise ValueError(f"two inputs are called {name!r}: rename the parameter")
        self._inputs.append(name)
        self._shapes[name] = tuple(shape)
        return name

    def constant(self, value: FloatArray) -> str:
        name = f"c{len(self._constants)}"
        self._constants[name] = np.array(value, np.float32)
        self._shapes[name] = self._constants[name].shape
        return name

    def scalar(self, value: float) -> str:
        return self.constant(np.array(value, np.float32))

    def op(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Append a node, return the name of its result. Raises ValueError where the op table does not allow it."""
        name = f"t{len(self._nodes)}"
        shape = infer(op, [self._shapes[i] for i in inputs], attributes)
        self._nodes.append(Node(op=op, inputs=inputs, output=name, attributes=attributes))
        self._shapes[name] = shape
        return name

    def shape(self, name: str) -> Shape:
        return self._shapes[name]

    def graph(self, outputs: Sequence[str], *, names: Sequence[str]) -> Graph:
        """The graph whose outputs, in this order, are called `names`: each the result of a node of its own."""
        ends = [self.op("reshape", output, shape=list(self._shapes[output])) for output in outputs]
        called = dict(zip(ends, names, strict=True))
        return Graph(
            inputs=tuple(self._inputs),
            outputs=tuple(names),
            shapes={called.get(name, name): shape for name, shape in self._shapes.items()},
            constants=dict(self._constants),
            nodes=tuple(
                Node(op=n.op, inputs=n.inputs, output=called.get(n.output, n.output), attributes=n.attributes)
                for n in self._nodes
            ),
        )
