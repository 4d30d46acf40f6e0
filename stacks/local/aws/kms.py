"""The KMS operations: one pure call from a verified request to an answer. The key policy is asked before anything else.

Source: KMS API reference. Parameters that are not supported are refused by name, never ignored.
"""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cryptography import x509

from dataplane.protocol.attestation.document import AttestationDocument
from stacks.local.aws.attested import conditions_of, decode_blob, plaintext_fields, read_recipient
from stacks.local.aws.audit import Audit, AuditRecord
from stacks.local.aws.conditions import Context
from stacks.local.aws.errors import AwsError
from stacks.local.aws.keys import KeyStore, KmsKey
from stacks.local.aws.policy import Call, PolicyError, decide, parse_policy
from stacks.local.aws.principals import Identity
from stacks.local.aws.sigv4 import Verified

MAX_CONTEXT_CHARS = 8_192
DATA_KEY_BYTES = {"AES_256": 32, "AES_128": 16}
MAX_DATA_KEY_BYTES = 1_024

_PARAMETERS: Mapping[str, frozenset[str]] = {
    "CreateKey": frozenset({"Policy", "Description", "MultiRegion", "KeyUsage", "KeySpec", "Origin", "Tags"}),
    "ReplicateKey": frozenset({"KeyId", "ReplicaRegion", "Policy", "Description", "Tags"}),
    "DescribeKey": frozenset({"KeyId"}),
    "GetKeyPolicy": frozenset({"KeyId", "PolicyName"}),
    "PutKeyPolicy": frozenset({"KeyId", "PolicyName", "Policy"}),
    "GenerateDataKey": frozenset({"KeyId", "EncryptionContext", "KeySpec", "NumberOfBytes", "Recipient"}),
    "Decrypt": frozenset({"KeyId", "CiphertextBlob", "EncryptionContext", "EncryptionAlgorithm", "Recipient"}),
}
_FIXED = {
    "KeyUsage": "ENCRYPT_DECRYPT",
    "KeySpec": "SYMMETRIC_DEFAULT",
    "Origin": "AWS_KMS",
    "PolicyName": "default",
    "EncryptionAlgorithm": "SYMMETRIC_DEFAULT",
}


class Kms:
    """Every region's KMS."""

    def __init__(
        self, *, store: KeyStore, roots: Sequence[x509.Certificate], clock_ms: Callable[[], int], audit: Audit
    ) -> None:
        """Take the roots that attestation documents must lead to."""
        self._store = store
        self._roots = roots
        self._clock_ms = clock_ms
        self._audit = audit

    def handle(self, operation: str, body: bytes, caller: Verified) -> dict[str, Any]:
        """Return the answer's fields; raises `AwsError`."""
        request = _Request(operation, caller)
        try:
            answer = self._operate(request, body)
        except AwsError as error:
            self._record(request, "denied" if error.code == "AccessDeniedException" else error.code, error.message)
            raise
        self._record(request, "allowed", request.reason)
        return answer

    def _operate(self, request: _Request, body: bytes) -> dict[str, Any]:
        parameters = _parameters(request.operation, body)
        request.parameters = parameters
        request.context = _encryption_context(parameters)
        if request.operation == "CreateKey":
            return self._create(request)
        if request.operation == "Decrypt":
            return self._decrypt(request)
        key = self._store.find(_text(parameters, "KeyId"), region=request.region, account=request.identity.account)
        operations = {
            "ReplicateKey": self._replicate,
            "DescribeKey": self._describe,
            "GetKeyPolicy": self._get_policy,
            "PutKeyPolicy": self._put_policy,
            "GenerateDataKey": self._generate,
        }
        return operations[request.operation](request, key)

    def _create(self, request: _Request) -> dict[str, Any]:
        # Creating keys is IAM's to allow, and here only an account's root user has IAM's permissions.
        if not request.identity.is_root:
            raise _denied(request.identity, "kms:CreateKey", "*", "identity-based")
        key_policy, text = self._new_policy(request)
        key = self._store.create(
            account=request.identity.account,
            region=request.region,
            policy_text=text,
            policy=key_policy,
            description=str(request.parameters.get("Description", "")),
            multi_region=request.parameters.get("MultiRegion") is True,
            now_s=self._clock_ms() / 1000,
        )
        request.key = key
        request.reason = "the account's root user may create keys"
        return {"KeyMetadata": self._metadata(key)}

    def _replicate(self, request: _Request, key: KmsKey) -> dict[str, Any]:
        self._authorise(request, key)
        if not key.multi_region or key.region != key.primary_region:
            raise AwsError("UnsupportedOperationException", f"{key.arn} is not a multi-region primary key.")
        region = _text(request.parameters, "ReplicaRegion")
        if region == key.region:
            raise AwsError("ValidationException", "ReplicaRegion is the primary's own region.")
        key_policy, text = self._new_policy(request)
        replica = self._store.replicate(
            key,
            region=region,
            policy_text=text,
            policy=key_policy,
            description=str(request.parameters.get("Description", "")),
            now_s=self._clock_ms() / 1000,
        )
        return {"ReplicaKeyMetadata": self._metadata(replica), "ReplicaPolicy": text, "ReplicaTags": []}

    def _describe(self, request: _Request, key: KmsKey) -> dict[str, Any]:
        self._authorise(request, key)
        return {"KeyMetadata": self._metadata(key)}

    def _get_policy(self, request: _Request, key: KmsKey) -> dict[str, Any]:
        self._authorise(request, key)
        return {"Policy": key.policy_text, "PolicyName": "default"}

    def _put_policy(self, request: _Request, key: KmsKey) -> dict[str, Any]:
        self._authorise(request, key)
        _text(request.parameters, "Policy")
        key_policy, text = self._new_policy(request)
        key.policy, key.policy_text = key_policy, text
        return {}

    def _generate(self, request: _Request, key: KmsKey) -> dict[str, Any]:
        self._attest(request)
        self._authorise(request, key)
        plaintext = secrets.token_bytes(_data_key_length(request.parameters))
        blob = self._store.seal(key, plaintext, request.context)
        return {
            "CiphertextBlob": base64.b64encode(blob).decode(),
            "KeyId": key.arn,
            **plaintext_fields(plaintext, request.document),
        }

    def _decrypt(self, request: _Request) -> dict[str, Any]:
        blob = decode_blob(request.parameters.get("CiphertextBlob"))
        key = self._store.of_ciphertext(blob, region=request.region)
        named = request.parameters.get("KeyId")
        if named is not None:
            wanted = self._store.find(
                _text(request.parameters, "KeyId"), region=request.region, account=request.identity.account
            )
            if key is not wanted:
                raise AwsError("IncorrectKeyException", "The key of the request is not the one that sealed this.")
        if key is None:
            raise AwsError(
                "AccessDeniedException",
                "The ciphertext refers to a customer master key that does not exist, does not exist in this region, or "
                "you are not allowed to access.",
            )
        self._attest(request)
        self._authorise(request, key)
        plaintext = self._store.open(key, blob, request.context)
        return {
            "KeyId": key.arn,
            "EncryptionAlgorithm": "SYMMETRIC_DEFAULT",
            **plaintext_fields(plaintext, request.document),
        }

    def _attest(self, request: _Request) -> None:
        request.document = read_recipient(request.parameters, roots=self._roots, now_ms=self._clock_ms())

    def _authorise(self, request: _Request, key: KmsKey) -> None:
        """Ask the key policy; raises `AccessDeniedException`."""
        request.key = key
        action = f"kms:{request.operation}"
        decision = decide(key.policy, request.call(action, key.arn))
        request.reason = decision.reason
        if not decision.allowed:
            raise _denied(request.identity, action, key.arn, "resource-based", decision.reason)

    def _new_policy(self, request: _Request) -> tuple[dict[str, Any], str]:
        """Return a policy to store; it must leave the caller able to change it again (KMS's lockout safety check)."""
        root = f"arn:aws:iam::{request.identity.account}:root"
        default = {
            "Version": "2012-10-17",
            "Id": "key-default-1",
            "Statement": [
                {
                    "Sid": "Enable IAM User Permissions",
                    "Effect": "Allow",
                    "Principal": {"AWS": root},
                    "Action": "kms:*",
                    "Resource": "*",
                }
            ],
        }
        text = request.parameters.get("Policy")
        if text is None:
            text = json.dumps(default)
        try:
            key_policy = parse_policy(_text({"Policy": text}, "Policy"))
        except PolicyError as error:
            raise AwsError("MalformedPolicyDocumentException", str(error)) from None
        if not decide(key_policy, request.call("kms:PutKeyPolicy", "*")).allowed:
            raise AwsError(
                "MalformedPolicyDocumentException",
                "The new key policy will not allow you to update the key policy in the future.",
            )
        return key_policy, text

    def _metadata(self, key: KmsKey) -> dict[str, Any]:
        metadata: dict[str, Any] = {
            "AWSAccountId": key.account,
            "KeyId": key.key_id,
            "Arn": key.arn,
            "CreationDate": key.created_s,
            "Enabled": True,
            "Description": key.description,
            "KeyUsage": "ENCRYPT_DECRYPT",
            "KeyState": "Enabled",
            "Origin": "AWS_KMS",
            "KeyManager": "CUSTOMER",
            "KeySpec": "SYMMETRIC_DEFAULT",
            "EncryptionAlgorithms": ["SYMMETRIC_DEFAULT"],
            "MultiRegion": key.multi_region,
        }
        if key.primary_region is not None:
            primary = f"arn:aws:kms:{key.primary_region}:{key.account}:key/{key.key_id}"
            metadata["MultiRegionConfiguration"] = {
                "MultiRegionKeyType": "PRIMARY" if key.region == key.primary_region else "REPLICA",
                "PrimaryKey": {"Arn": primary, "Region": key.primary_region},
            }
        return metadata

    def _record(self, request: _Request, outcome: str, reason: str) -> None:
        document = request.document
        self._audit.add(
            AuditRecord(
                time_ms=self._clock_ms(),
                operation=request.operation,
                region=request.region,
                principal=request.identity.arn,
                key=request.key.arn if request.key is not None else None,
                outcome=outcome,
                # The message names principal and key again; the statement that decided says more.
                reason=request.reason if outcome == "denied" and request.reason else reason,
                module_id=document.module_id if document is not None else None,
                attested={
                    str(index): value.hex()
                    for index, value in (document.pcrs.items() if document is not None else ())
                    if any(value)
                },
                context=dict(request.context),
            )
        )


class _Request:
    """One call as it is worked on, so that the audit knows how far it came."""

    def __init__(self, operation: str, caller: Verified) -> None:
        self.operation = operation
        self.identity: Identity = caller.identity
        self.region = caller.region
        self.parameters: Mapping[str, Any] = {}
        self.context: Mapping[str, str] = {}
        self.document: AttestationDocument | None = None
        self.key: KmsKey | None = None
        self.reason = ""

    def call(self, action: str, resource: str) -> Call:
        """Return what the policy is asked."""
        context: dict[str, tuple[str, ...]] = {
            "aws:principalarn": (self.identity.arn,),
            "aws:principalaccount": (self.identity.account,),
            "kms:calleraccount": (self.identity.account,),
        }
        context |= {f"kms:encryptioncontext:{key.lower()}": (value,) for key, value in self.context.items()}
        if self.context:
            context["kms:encryptioncontextkeys"] = tuple(self.context)
        if self.document is not None:
            context |= conditions_of(self.document)
        conditions: Context = context
        return Call(identity=self.identity, action=action, resource=resource, context=conditions)


def _parameters(operation: str, body: bytes) -> dict[str, Any]:
    """Read the JSON body; unknown parameters are refused."""
    known = _PARAMETERS.get(operation)
    if known is None:
        raise AwsError("UnknownOperationException", f"The local KMS has no operation {operation[:64]}.")
    try:
        parameters = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        raise AwsError("SerializationException", "The body is not JSON.") from None
    if not isinstance(parameters, dict):
        raise AwsError("SerializationException", "The body is not a JSON object.")
    surplus = sorted(parameters.keys() - known)
    if surplus:
        raise AwsError("ValidationException", f"The local KMS does not support {surplus[0][:64]} of {operation}.")
    for name, value in _FIXED.items():
        if operation != "GenerateDataKey" and parameters.get(name, value) != value:
            raise AwsError("ValidationException", f"The local KMS supports only {value} as {name}.")
    return parameters


def _encryption_context(parameters: Mapping[str, Any]) -> dict[str, str]:
    context = parameters.get("EncryptionContext") or {}
    if not isinstance(context, dict) or not all(isinstance(value, str) for value in context.values()):
        raise AwsError("ValidationException", "EncryptionContext is not a map of texts.")
    if sum(len(key) + len(value) for key, value in context.items()) > MAX_CONTEXT_CHARS:
        raise AwsError("ValidationException", f"EncryptionContext is longer than {MAX_CONTEXT_CHARS} characters.")
    lowered = [key.lower() for key in context]
    if len(set(lowered)) != len(lowered):
        raise AwsError("ValidationException", "EncryptionContext has keys that differ only in case.")
    return context


def _data_key_length(parameters: Mapping[str, Any]) -> int:
    spec, number = parameters.get("KeySpec"), parameters.get("NumberOfBytes")
    if (spec is None) == (number is None):
        raise AwsError("ValidationException", "Please specify either number of bytes or key spec.")
    if spec is not None:
        length = DATA_KEY_BYTES.get(spec) if isinstance(spec, str) else None
    else:
        length = number if type(number) is int and 1 <= number <= MAX_DATA_KEY_BYTES else None
    if length is None:
        raise AwsError("ValidationException", "KeySpec is not AES_256 or AES_128, or NumberOfBytes not 1 to 1024.")
    return length


def _text(parameters: Mapping[str, Any], name: str) -> str:
    value = parameters.get(name)
    if not isinstance(value, str) or not value:
        raise AwsError("ValidationException", f"{name} is missing or not a text.")
    return value


def _denied(identity: Identity, action: str, resource: str, kind: str, reason: str = "") -> AwsError:
    return AwsError(
        "AccessDeniedException",
        f"User: {identity.arn} is not authorized to perform: {action} on resource: {resource} because no {kind} policy "
        f"allows the {action} action" + (f" ({reason})" if reason else ""),
    )
