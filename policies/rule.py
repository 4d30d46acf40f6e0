"""What every rule of both packs is made of: reading a resource, saying what is wrong with it, being a Pulumi policy.

A rule is a plain function over a `Resource`, whose values are plain dictionaries, lists and texts, so that it is
tested without an engine. A value that is not known before an update is `UNKNOWN`. A rule decides itself what that
means: `known(value, what)` hands the question back to the engine, which then warns at preview and asks the same rule
again at the update, before the resource is created; reporting a violation refuses at preview already.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pulumi_policy import (
    EnforcementLevel,
    PolicyConfigSchema,
    PolicyResource,
    ReportViolation,
    ResourceValidationArgs,
    ResourceValidationPolicy,
    StackValidationArgs,
    StackValidationPolicy,
)
from pulumi_policy import proxy as _proxy

SENTINELS: Final = frozenset(
    value for name, value in vars(_proxy).items() if name.startswith("UNKNOWN_") and isinstance(value, str)
)
"""The texts that stand for a value which is not known yet, one for each kind of value."""


class _Unknown:
    """The type of `UNKNOWN`."""

    def __repr__(self) -> str:
        return "UNKNOWN"

    def __bool__(self) -> bool:
        raise TypeError("an unknown value is neither true nor false: compare with `is UNKNOWN` first")


UNKNOWN: Final = _Unknown()
"""A value that is known only once other resources exist."""


class ConfigurationError(Exception):
    """A pack's configuration that can't be used: one sentence, which is reported as the rule's violation."""


class DocumentError(Exception):
    """A text that is no JSON policy document: one sentence without its subject ("is not JSON")."""


Config = Mapping[str, Any]
"""One rule's configuration: the properties of its schema that were given."""


def plain(value: Any) -> Any:
    """Turn the engine's proxies into dictionaries and lists, with `UNKNOWN` for what is not known; never raises."""
    if isinstance(value, Mapping):
        return {str(key): _item(value, key) for key in value}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_item(value, index) for index in range(len(value))]
    if isinstance(value, float) and value.is_integer():
        return int(value)  # the engine's numbers are all floats
    return UNKNOWN if isinstance(value, str) and value in SENTINELS else value


def _item(holder: Any, key: Any) -> Any:
    try:
        return plain(holder[key])
    except _proxy.UnknownValueError:
        return UNKNOWN


def at(value: Any, *path: str | int) -> Any:
    """The value at a path of keys and indexes; None where there is none, `UNKNOWN` below an unknown value."""
    for key in path:
        if value is UNKNOWN:
            return UNKNOWN
        if isinstance(value, Mapping) and isinstance(key, str):
            value = value.get(key)
        elif isinstance(value, Sequence) and isinstance(key, int) and -len(value) <= key < len(value):
            value = value[key]
        else:
            return None
    return value


def listed(value: Any) -> list[Any]:
    """A value that may be one or several, as a list; nothing for None. An unknown list is a list of one `UNKNOWN`."""
    if value is None:
        return []
    if isinstance(value, Sequence) and not isinstance(value, str):
        return list(value)
    return [value]


def known(value: Any, what: str) -> Any:
    """The value; where it is unknown, the engine's own answer: a warning at preview, asked again at the update."""
    if value is UNKNOWN:
        raise _proxy.UnknownValueError(_proxy.UNKNOWN_STRING_VALUE, [what])
    return value


def walk(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every property at every depth, with its path; a list's entries by their number."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key == "__defaults":
                continue
            yield (*path, key), inner
            yield from walk(inner, (*path, key))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield (*path, str(number)), inner
            yield from walk(inner, (*path, str(number)))


def texts(value: Any) -> list[str]:
    """The texts among one or several values."""
    return [entry for entry in listed(value) if isinstance(entry, str)]


def is_true(value: Any) -> bool:
    """Whether a value is a true that AWS reads as one; unknown and absent are not."""
    return value is True or (isinstance(value, str) and value.lower() == "true")


def document(value: Any) -> Any:
    """A JSON document given as text or as an object; `UNKNOWN` where any of its text is unknown.

    Raises DocumentError for what is no JSON object, and for a key named twice in one object, which readers of JSON
    resolve differently.
    """
    if value is UNKNOWN or isinstance(value, Mapping):
        return UNKNOWN if holds_unknown(value) else value
    if not isinstance(value, str):
        raise DocumentError("is missing" if value is None else "is no JSON document")
    if any(sentinel in value for sentinel in SENTINELS):
        return UNKNOWN
    try:
        parsed = json.loads(value, object_pairs_hook=_once)
    except (ValueError, RecursionError):
        raise DocumentError("is not JSON") from None
    if not isinstance(parsed, Mapping):
        raise DocumentError("is no JSON object")
    return parsed


def holds_unknown(value: Any) -> bool:
    """Whether anything within a plain value is unknown."""
    if isinstance(value, Mapping):
        return any(holds_unknown(inner) for inner in value.values())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return any(holds_unknown(inner) for inner in value)
    return value is UNKNOWN


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise DocumentError("names a key twice in one object")
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """One resource as a rule sees it.

    `props` are its inputs for a resource rule and its outputs for a stack rule, made plain. `provider` are the
    properties of its explicit provider. `depends` maps a property to the URNs it is made from; only a stack rule sees
    it. A URN's type part names the components that the resource belongs to.
    """

    type: str
    props: Mapping[str, Any]
    name: str = "resource"
    urn: str = ""
    provider: Mapping[str, Any] | None = None
    parent: str | None = None
    protect: bool = False
    ignore_changes: tuple[str, ...] = ()
    depends: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def region(self) -> Any:
        """Where it is created: its own region, or its provider's; None for neither, `UNKNOWN` for not yet known."""
        own = self.props.get("region")
        return own if own is UNKNOWN or own else at(self.provider, "region")

    @property
    def components(self) -> tuple[str, ...]:
        """Types of the components around it, outermost first, from the URN (`...::outer$inner$type::name`)."""
        parts = self.urn.split("::")
        return tuple(parts[2].split("$")[:-1]) if len(parts) > 3 else ()  # noqa: PLR2004 - urn, stack, types, name

    def at(self, *path: str | int) -> Any:
        """The property at a path; see `at`."""
        return at(self.props, *path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One configuration property of a rule. `schema` is its JSON schema without description and default."""

    name: str
    description: str
    default: Any
    schema: Mapping[str, Any]

    def read(self, config: Config) -> Any:
        """What was configured, or the default; null counts as not configured."""
        value = config.get(self.name)
        return self.default if value is None else value

    def declaration(self) -> dict[str, Any]:
        """The property as a pack's configuration schema declares it."""
        return {**self.schema, "description": self.description, "default": self.default}


ResourceCheck = Callable[[Resource, Config], Iterator[str]]
"""Yields a sentence for everything that is wrong with one resource."""
StackCheck = Callable[[Sequence[Resource], Config], Iterator[tuple[str, str | None]]]
"""Yields a sentence, and the URN it is about or None, for everything that is wrong with the whole."""


def _sentences(protects: str, fix: str) -> str:
    for text in (protects, fix):
        if not text.endswith("."):
            raise ValueError(f"a rule is explained in whole sentences, and this one has no end: {text!r}")
    return f"{protects} {fix}"


def _schema(settings: Sequence[Setting]) -> PolicyConfigSchema | None:
    return PolicyConfigSchema({one.name: one.declaration() for one in settings}) if settings else None


class ResourceRule(ResourceValidationPolicy):
    """A mandatory rule over single resources: refused before it is created.

    `types` are the resource types it reads (an entry that ends in ":" or "/" is a prefix; () is every resource),
    `protects` says in a sentence what would be lost, `fix` how to satisfy it.
    """

    def __init__(
        self,
        name: str,
        check: ResourceCheck,
        *,
        protects: str,
        fix: str,
        types: Sequence[str] = (),
        settings: Sequence[Setting] = (),
    ) -> None:
        super().__init__(
            name=name,
            description=_sentences(protects, fix),
            validate=self._judge,
            enforcement_level=EnforcementLevel.MANDATORY,
            config_schema=_schema(settings),
            remediation_steps=fix,
        )
        self.protects = protects
        self.fix = fix
        self.types = tuple(types)
        self.settings = tuple(settings)
        self.check = check

    def reads(self, resource_type: str) -> bool:
        """Whether the rule says anything about resources of this type."""
        return not self.types or any(
            resource_type.startswith(one) if one[-1] in ":/" else resource_type == one for one in self.types
        )

    def violations(self, resource: Resource, config: Config | None = None) -> list[str]:
        """What is wrong with one resource; raises the engine's UnknownValueError where that can't be said yet."""
        if not self.reads(resource.type):
            return []
        try:
            return list(self.check(resource, config or {}))
        except ConfigurationError as error:
            return [str(error)]

    def _judge(self, args: ResourceValidationArgs, report: ReportViolation) -> None:
        if not self.reads(args.resource_type):
            return
        resource = Resource(
            type=args.resource_type,
            props=plain(args.props),
            name=args.name,
            urn=args.urn,
            provider=None if args.provider is None else plain(args.provider.props),
            parent=args.opts.parent,
            protect=args.opts.protect,
            ignore_changes=tuple(args.opts.ignore_changes),
        )
        # One by one, so that what was found before an unknown value is still reported.
        try:
            for sentence in self.check(resource, args.get_config()):
                report(sentence, args.urn)
        except ConfigurationError as error:
            report(str(error), args.urn)


class StackRule(StackValidationPolicy):
    """A mandatory rule over all resources together: it sees them after they exist, and fails the update."""

    def __init__(
        self, name: str, check: StackCheck, *, protects: str, fix: str, settings: Sequence[Setting] = ()
    ) -> None:
        super().__init__(
            name=name,
            description=_sentences(protects, fix),
            validate=self._judge,
            enforcement_level=EnforcementLevel.MANDATORY,
            config_schema=_schema(settings),
            remediation_steps=fix,
        )
        self.protects = protects
        self.fix = fix
        self.settings = tuple(settings)
        self.check = check

    def violations(self, resources: Sequence[Resource], config: Config | None = None) -> list[str]:
        """What is wrong with the whole; raises the engine's UnknownValueError where that can't be said yet."""
        try:
            return [sentence for sentence, _ in self.check(resources, config or {})]
        except ConfigurationError as error:
            return [str(error)]

    def _judge(self, args: StackValidationArgs, report: ReportViolation) -> None:
        try:
            for sentence, urn in self.check([_of(one) for one in args.resources], args.get_config()):
                report(sentence, urn)
        except ConfigurationError as error:
            report(str(error), None)


Rule = ResourceRule | StackRule


def _of(one: PolicyResource) -> Resource:
    return Resource(
        type=one.resource_type,
        props=plain(one.props),
        name=one.name,
        urn=one.urn,
        provider=None if one.provider is None else plain(one.provider.props),
        parent=one.parent.urn if one.parent is not None else one.opts.parent,
        protect=one.opts.protect,
        ignore_changes=tuple(one.opts.ignore_changes),
        depends={key: tuple(dep.urn for dep in found) for key, found in one.property_dependencies.items()},
    )


def like(value: str, pattern: str) -> bool:
    """Whether a text matches a policy's pattern (`*` any text, `?` one character), whatever the case."""
    parts = {"*": ".*", "?": "."}
    expression = "".join(parts.get(character, re.escape(character)) for character in pattern)
    return re.fullmatch(expression, value, re.DOTALL | re.IGNORECASE) is not None


def tags(resource: Resource) -> dict[str, str]:
    """A resource's tags with keys in lower case and values as texts; unknown values are left out."""
    merged = {**(_mapping(resource.at("tagsAll"))), **_mapping(resource.at("tags"))}
    return {key.lower(): str(value).strip() for key, value in merged.items() if value is not UNKNOWN}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
