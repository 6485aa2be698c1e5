"""How Griffe reads what mmkd's modules say of their names."""

from __future__ import annotations

import ast
import re
from typing import Any

from griffe import Attribute, Docstring, Extension, Inspector, Object, Visitor

LONGEST = 300
"""Characters of the longest value that is shown; a longer one is a page of a report or the like."""


class Docstrings(Extension):
    """Describes fields by the comments behind them, shows examples as code, hides what is not declared."""

    def on_instance(self, *, obj: Object, **_: Any) -> None:
        """Have the section "Example", which is a quotation to Griffe, read as "Examples", which is code."""
        if obj.docstring:
            obj.docstring.value = re.sub(r"^(\s*Example):$", r"\1s:", obj.docstring.value, flags=re.MULTILINE)

    def on_attribute_instance(
        self, *, node: Any, attr: Attribute, agent: Visitor | Inspector, **_: Any
    ) -> None:
        """Describe a field, and hide what ``__init__`` sets without a docstring."""
        attr.labels -= {"module-attribute", "class-attribute", "instance-attribute"}
        if attr.value is not None and len(str(attr.value)) > LONGEST:
            attr.value = None
        if attr.docstring or not isinstance(agent, Visitor) or agent.current.is_module:
            return
        if not isinstance(node, ast.Assign | ast.AnnAssign):
            return
        if agent.current.is_function:
            attr.public = False
            return
        # Columns are counted in bytes.
        line = agent.code.splitlines()[(node.end_lineno or node.lineno) - 1].encode()
        comment = line[node.end_col_offset :].decode().partition("#")[2].strip()
        if comment:
            attr.docstring = Docstring(comment, lineno=node.lineno, parent=attr)
