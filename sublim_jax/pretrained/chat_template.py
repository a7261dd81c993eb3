"""Render chat templates, which come with a model and are not trusted: no access to Python, limited steps and sizes.

The sandbox of Jinja alone lets nested loops run without end and strings grow until the memory is full.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

import jinja2
import jinja2.sandbox
from jinja2 import nodes
from jinja2.runtime import Context
from jinja2.visitor import NodeTransformer

from sublim_jax.core.errors import ConfigError

STEPS = 20_000  # calls and rounds of loops in one rendering
LENGTH = 1_000_000  # of the template, of strings and lists while rendering, and of numbers of repetitions


class _Joins(NodeTransformer):
    """Replaces `~` by a call that can be limited."""

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802  the name that Jinja calls
        parts = [self.visit(part) for part in node.nodes]
        return nodes.Call(nodes.EnvironmentAttribute("joined"), parts, [], None, None)


class _BoundedSandbox(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """A sandbox that counts loops and calls, and limits what `*`, `**`, `+` and `~` may build."""

    intercepted_binops = frozenset({"*", "**", "+"})

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
        self._steps = 0

    def rounds(self, values: Iterable[Any]) -> Iterator[Any] | Sequence[Any]:
        """Return the values of a loop, counted."""
        values = values if isinstance(values, Mapping | Sequence) else list(values)
        self._count(len(values))
        return values  # pyright: ignore[reportReturnType]

    def joined(self, *parts: Any) -> str:
        """Concatenate the parts of `~`."""
        text = "".join(map(str, parts))
        self._limit(len(text))
        return text

    def call(self, context: Context, obj: Any, *args: Any, **kwargs: Any) -> Any:
        self._count(1)
        for value in (*args, *kwargs.values()):
            if isinstance(value, int):
                self._limit(abs(value))
        return super().call(context, obj, *args, **kwargs)  # pyright: ignore[reportCallIssue]

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        numbers = [value for value in (left, right) if isinstance(value, int)]
        lengths = [len(value) for value in (left, right) if isinstance(value, Sequence)]
        if operator == "**" and len(numbers) == 2:
            self._limit(left.bit_length() * abs(right))
        elif operator == "*" and numbers and lengths:
            self._limit(abs(numbers[0]) * lengths[0])
        else:
            self._limit(sum(lengths) + sum(number.bit_length() for number in numbers))
        return super().call_binop(context, operator, left, right)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for loop in tree.find_all(nodes.For):
            loop.iter = nodes.Call(nodes.EnvironmentAttribute("rounds"), [loop.iter], [], None, None)
        return _Joins().visit(tree)

    def _count(self, number: int) -> None:
        self._steps += number
        if self._steps > STEPS:
            raise jinja2.TemplateRuntimeError(f"it takes more than {STEPS} steps")

    def _limit(self, size: int) -> None:
        if size > LENGTH:
            raise jinja2.TemplateRuntimeError(f"it makes values of a size above {LENGTH}")


def render(template: str, variables: Mapping[str, Any], where: str) -> str:
    """Render a chat template.

    Args:
        template: the text of the template.
        variables: what it may use, for instance `messages`.
        where: beginning of errors.

    Raises:
        ConfigError: The template rejects the messages, fails, or takes too many steps.
    """

    def refuse(message: object) -> NoReturn:
        raise ConfigError(f"{where}: its chat template says: {' '.join(str(message).split())}")

    if len(template) > LENGTH:
        raise ConfigError(f"{where}: its chat template has more than {LENGTH} characters")
    try:
        compiled = _BoundedSandbox().from_string(template, globals={"raise_exception": refuse})
        return compiled.render(**variables)
    except ConfigError:
        raise
    except Exception as error:  # templates fail as Python does: TypeError, RecursionError, ...
        shown = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"{where}: its chat template fails: {shown}") from error
