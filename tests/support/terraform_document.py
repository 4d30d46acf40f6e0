"""A recorded program as a Terraform configuration in JSON, argument by argument along the provider's schema.

The recorder's outputs are recognisable texts (`arn:aws:kms:us-east-1:123456789012:keys-logs-us-east-1-97b57b63`), so
wherever one stands in an argument, a policy or user data, the reference that it stands for takes its place. Nothing
is left out silently: what has no place in the provider's schema is in `unmapped` and `dropped`.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.support.aws_outputs import identity, outputs
from tests.support.pulumi_program import Program, Recorded
from tests.support.terraform_names import PHYSICAL_NAMES, Block, attribute_name, physical_name, resource_type

SOURCE: Final = "hashicorp/aws"
IDENTITY_END: Final = re.compile(r"-([0-9a-f]{8})(?![0-9a-f])")
BASE64: Final = re.compile(r"[A-Za-z0-9+/]{16,}={0,2}")
IDENTIFIED_BY_ARN: Final = ("aws_ecs_cluster", "aws_ecs_service")
"""Types whose id is their ARN and which are spoken of by name. The recorder has one text for a resource's id and the
name made up for it, so that which is meant is decided by type."""

PROVIDER_ARGUMENTS: Final = ("region", "allowedAccountIds", "defaultTags")
FOR_EMULATORS: Final = {"s3_use_path_style": True, "max_retries": 3}
"""Added to every provider: an emulator has one host name, and now and then its threads stumble over one another, which
a second try gets past; the provider's usual 25 tries would make minutes of what the emulator cannot do at all."""

OF_MOCKS: Final = ("skipCredentialsValidation", "skipRegionValidation")
"""Defaults that pulumi-aws sets on every provider, and of which no program speaks."""


@dataclass(frozen=True)
class Omission:
    """An argument (`path`, nested ones by dots) of a Pulumi type that the provider's schema has no place for."""

    type: str
    path: str


@dataclass
class Document:
    """A configuration, and what of the program is not in it. `resources` are bodies by address."""

    resources: dict[str, dict[str, Any]] = field(default_factory=dict)
    providers: list[dict[str, Any]] = field(default_factory=list)
    unmapped: set[str] = field(default_factory=set)
    dropped: set[Omission] = field(default_factory=set)
    unknown_outputs: set[Omission] = field(default_factory=set)

    def write(self, folder: Path) -> None:
        """Write `main.tf.json` with every resource on a line of its own."""
        head = json.dumps({"required_providers": {"aws": {"source": SOURCE}}})
        rows = []
        for address, body in self.resources.items():
            kind, _, name = address.partition(".")
            rows.append(json.dumps({kind: {name: body}}))
        lines = [f'{{"terraform": {head},', f'"provider": {{"aws": {json.dumps(self.providers)}}},', '"resource": [']
        (folder / "main.tf.json").write_text("\n".join(lines) + "\n" + ",\n".join(rows) + "\n]}\n")

    def at_line(self, line: int) -> str | None:
        """The address of the resource on a line of what `write` writes; three lines stand before the first."""
        return list(self.resources)[line - 4] if 0 <= line - 4 < len(self.resources) else None


def document(
    program: Program,
    schema: Mapping[str, Any],
    *,
    without: Collection[str] = (),
    without_arguments: Collection[tuple[str, str]] = (),
) -> Document:
    """The program as a configuration. `schema` is the provider's of `terraform providers schema -json`.

    `without` are Terraform types that are left out, what refers to them keeps the recorder's made-up value;
    `without_arguments` are (Terraform type, argument) that are left out.
    """
    return _Writer(program, schema, without, without_arguments).document


class _Writer:
    def __init__(
        self,
        program: Program,
        schema: Mapping[str, Any],
        without: Collection[str],
        without_arguments: Collection[tuple[str, str]],
    ) -> None:
        self.schema = schema
        self.schemas: Mapping[str, Any] = schema["resource_schemas"]
        self.document = Document()
        self.without_arguments = without_arguments
        self.address: dict[str, str] = {}
        self.sources: dict[str, tuple[str, dict[str, str]]] = {}
        self.kinds: dict[str, str] = {}
        self.current: Recorded
        chosen = [one for one in program if self._choose(one, without)]
        self.aliases = {one.urn: self._provider(one) for one in program if one.type == "pulumi:providers:aws"}
        for one in chosen:
            self.document.resources[self.address[one.urn]] = self._resource(one)

    def _choose(self, one: Recorded, without: Collection[str]) -> bool:
        if not one.custom or one.type.startswith("pulumi:"):
            return False
        kind = resource_type(one.type, self.schemas)
        if kind is None:
            self.document.unmapped.add(one.type)
            return False
        if kind in without:
            return False
        ident = identity(one.type, one.name)
        texts = {
            text: key
            for key, text in outputs(one.type, one.name, {}, "").items()
            if isinstance(text, str) and text.endswith(ident) and key not in {"arn", "name"}
        }
        assert ident[-8:] not in self.sources, f"{ident}: two resources have the same eight digits"
        self.address[one.urn] = f"{kind}.{_label(one.name)}"
        self.kinds[one.urn] = kind
        self.sources[ident[-8:]] = (one.urn, {**texts, ident: "id"})
        return True

    # References

    def _text(self, text: str) -> str:
        """A text with its references in Terraform's words, and with its own `${` and `%{` escaped."""
        out, at = [], 0
        for match in IDENTITY_END.finditer(text):
            found = self._reference(text[at : match.end()], match.group(1))
            if found is None:
                continue
            length, expression = found
            out += [_escaped(text[at : match.end() - length]), f"${{{expression}}}"]
            at = match.end()
        if not out and BASE64.fullmatch(text):
            return self._base64(text)
        return "".join([*out, _escaped(text[at:])])

    def _reference(self, text: str, digits: str) -> tuple[int, str] | None:
        """What the end of `text` refers to: its length and the expression. None if it is no recorder's output."""
        if digits not in self.sources:
            return None
        urn, texts = self.sources[digits]
        ident = next(known for known, key in texts.items() if key == "id")
        if not text.endswith(ident):
            return None
        kind = self.kinds[urn]
        arn = re.search(r"arn:aws:[a-z0-9-]*:[a-z0-9-]*:\d*:$", text.removesuffix(ident))
        known, output = (
            (arn.group() + ident, "arn")
            if arn
            else max(((one, key) for one, key in texts.items() if text.endswith(one)), key=lambda pair: len(pair[0]))
        )
        if output == "id" and kind in IDENTIFIED_BY_ARN:
            output = "name"
        attribute = attribute_name(output, self.schemas[kind]["block"], kind)
        if attribute is None:
            self.document.unknown_outputs.add(Omission(self.current.type, f"{kind}.{output}"))
            return None
        return len(known), f"{self.address[urn]}.{attribute}"

    def _base64(self, text: str) -> str:
        try:
            inner = base64.b64decode(text, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            return text
        replaced = self._text(inner)
        return text if replaced == _escaped(inner) else f"${{base64encode({json.dumps(replaced)})}}"

    # Values

    def _value(self, value: Any, shape: Any, path: str) -> Any:
        """A value in the shape that the schema gives an attribute: `string`, `["list", "string"]`, ..."""
        if value is None:
            return None
        if isinstance(shape, str):
            return self._text(value) if isinstance(value, str) else value
        kind, inner = shape
        if kind in {"list", "set"}:
            # Pulumi has one value where the provider has a list of at most one.
            return [self._value(one, inner, path) for one in (value if isinstance(value, list) else [value])]
        if kind == "map" and isinstance(value, Mapping):
            return {self._text(str(key)): self._value(one, inner, path) for key, one in value.items()}
        if kind == "object" and isinstance(value, Mapping):
            block = {"attributes": {name: {"type": type_, "optional": True} for name, type_ in inner.items()}}
            return {**dict.fromkeys(inner), **self._block(value, block, path)}
        return value

    def _block(self, values: Mapping[str, Any], block: Block, path: str = "", resource: str = "") -> dict[str, Any]:
        body: dict[str, Any] = {}
        for argument, value in values.items():
            here = f"{path}.{argument}" if path else argument
            name = attribute_name(argument, block, resource)
            if value is None or (resource, name) in self.without_arguments:
                continue
            nested = block.get("block_types", {}).get(name)
            attribute = block.get("attributes", {}).get(name, {})
            if name is not None and nested is not None:
                body[name] = self._nested(value, nested, here)
            elif name is not None and (attribute.get("optional") or attribute.get("required")):
                body[name] = self._value(value, attribute["type"], here)
            else:
                self.document.dropped.add(Omission(self.current.type, here))
        return body

    def _nested(self, value: Any, nested: Mapping[str, Any], path: str) -> Any:
        if nested["nesting_mode"] in {"single", "group"}:
            return self._block(value, nested["block"], path)
        return [self._block(one, nested["block"], path) for one in (value if isinstance(value, list) else [value])]

    # Resources

    def _resource(self, one: Recorded) -> dict[str, Any]:
        self.current, kind = one, self.kinds[one.urn]
        block = self.schemas[kind]["block"]
        body = self._block(one.inputs, block, resource=kind)
        name = attribute_name(PHYSICAL_NAMES.get(kind, "name"), block, kind)
        taken = block["attributes"].get(name, {})
        if name not in body and f"{name}_prefix" not in body and (taken.get("optional") or taken.get("required")):
            body[str(name)] = physical_name(kind, one.name)
        body["provider"] = f"aws.{self.aliases[one.provider]}"
        needs = {self.address[urn] for urn in one.dependencies if urn in self.address} - {self.address[one.urn]}
        if needs:
            body["depends_on"] = sorted(needs)
        ignored = {attribute_name(path.partition(".")[0].partition("[")[0], block, kind) for path in one.ignore_changes}
        assert None not in ignored, f"{one.urn} ignores changes of what the provider does not have"
        if ignored:
            body["lifecycle"] = {"ignore_changes": sorted(str(name) for name in ignored)}
        return body

    def _provider(self, one: Recorded) -> str:
        self.current = one
        values = {key: _parsed(value) for key, value in one.inputs.items() if key in PROVIDER_ARGUMENTS}
        block = self.schema["provider"]["block"]
        unknown = set(one.inputs) - {*PROVIDER_ARGUMENTS, *OF_MOCKS}
        self.document.dropped |= {Omission(one.type, key) for key in unknown}
        self.document.providers.append({"alias": one.name, **FOR_EMULATORS, **self._block(values, block)})
        return one.name


def _parsed(value: Any) -> Any:
    """Providers' arguments are JSON on the wire, but for those that are text."""
    return json.loads(value) if isinstance(value, str) and value[:1] in {"{", "["} else value


def _label(name: str) -> str:
    return re.sub(r"[^0-9A-Za-z_-]", "_", name)


def _escaped(text: str) -> str:
    return text.replace("${", "$${").replace("%{", "%%{")
