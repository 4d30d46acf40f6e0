"""Rules over GPU hosts: enclaves, metadata, key pairs, images, and no way to log in where the host is attested.

Every EC2 instance of the platform is a GPU host (routers and control loops run on Fargate), so these rules read every
launch template, instance and group, whatever instance type it names: a type can be overridden by a group.
"""

from __future__ import annotations

import base64
import binascii
import re
import zlib
from collections.abc import Iterator
from typing import Any, Final

from policies.enclave.levels import LEVEL, attested_host
from policies.rule import UNKNOWN, Config, Resource, ResourceRule, Rule, Setting, at, is_true, known, listed

TEMPLATE: Final = "aws:ec2/launchTemplate:LaunchTemplate"
INSTANCE: Final = "aws:ec2/instance:Instance"
SPOT_INSTANCE: Final = "aws:ec2/spotInstanceRequest:SpotInstanceRequest"
CONFIGURATION: Final = "aws:ec2/launchConfiguration:LaunchConfiguration"
SPOT_FLEET: Final = "aws:ec2/spotFleetRequest:SpotFleetRequest"
KEY_PAIR: Final = "aws:ec2/keyPair:KeyPair"
HOSTS: Final = (TEMPLATE, INSTANCE, SPOT_INSTANCE)
OLD_HOSTS: Final = (CONFIGURATION, SPOT_FLEET)
"""Ways to start hosts that know no enclaves."""

HOP_LIMIT: Final = 1
"""A response of the metadata service with one hop left reaches the host, and no container or guest behind it."""

AMIS: Final = Setting(
    name="attestableAmis",
    description="The machine images (ami-...) whose NitroTPM measurements are baked into the published enclave. While "
    "it is empty, no host may claim level 2.",
    default=[],
    schema={"type": "array", "items": {"type": "string", "pattern": "^ami-[0-9a-f]{8,17}$"}},
)

_GZIP: Final = b"\x1f\x8b"
MOST_USER_DATA: Final = 1 << 20
"""EC2 takes 16 KiB of user data; a MiB of it unpacked is more than any host is given."""
_DEBUG: Final = re.compile(r"--debug-mode|--attach-console|\bnitro-cli\s+console\b", re.IGNORECASE)
_LOGIN: Final = {
    r"ssh-(rsa|ed25519|dss) AAAA|ecdsa-sha2-\S+ AAAA|ssh_authorized_keys|authorized_keys": "an SSH key",
    r"chpasswd|ssh_pwauth:\s*(true|yes|1)|passwd\s+--stdin|\b(hashed_|plain_text_)?passwd:": "a password",
    r"openssh-server|\bdropbear\b": "an SSH server",
    r"(?m)^#include(-once)?\b": "whatever another address says at the time",
    r"ec2-instance-connect": "EC2 Instance Connect",
    r"(systemctl|service)\s+(--now\s+)?(enable|start|restart|unmask)\b[^\n]*\b(sshd?|amazon-ssm-agent)\b"
    r"|(sshd?|amazon-ssm-agent)\s+(start|restart)\b": "a login service",
}


_RECORDING: Final = {
    r"\bcore_pattern\b|\bulimit\s+(-\w+\s+)*-\w*c\w*\s+(?!0\b)|\b(Default)?LimitCORE\s*=\s*(?!0\b)\S"
    r"|\bsystemd-coredump\b|\bcoredump\.conf\b|\bgcore\b|\babrtd?\b": "core dumps",
    r"PROFILER|--profiler|\bnsys\b|\bncu\b|\bpy-spy\b|\bperf\s+(record|top|trace)\b": "a profiler",
    r"\b(gdb|strace|ltrace|bpftrace|bpftool)\b|\bptrace_scope\s*=\s*0": "a debugger or tracer",
    r"log-requests|VLLM_DEBUG|VLLM_TRACE|VLLM_LOGGING_LEVEL\s*=\s*\W?DEBUG|max-log-len|TORCH_(LOGS|TRACE)": (
        "a log of requests"
    ),
    r"\bswapon\b|\bmkswap\b|\bzram\b": "swap",
}
"""Ways to keep what a worker holds, each as what it would keep; patterns over the text find the usual ways."""


def enclave_enabled(resource: Resource, _: Config) -> Iterator[str]:
    """What starts hosts enables Nitro Enclaves on them."""
    if resource.type == CONFIGURATION:
        yield "A launch configuration can't enable enclaves; make an aws.ec2.LaunchTemplate."
    elif resource.type == SPOT_FLEET:
        if listed(resource.at("launchSpecifications")):
            yield "A spot fleet's launch specification can't enable enclaves; make an aws.ec2.LaunchTemplate."
    elif not is_true(_single(resource.at("enclaveOptions"), "enabled")):
        yield "enclave_options.enabled is not true."


def metadata_v2(resource: Resource, _: Config) -> Iterator[str]:
    """The metadata service answers to sessions only, and one hop far."""
    options = resource.at("metadataOptions")
    tokens = _single(options, "httpTokens")
    if tokens != "required":
        yield f"metadata_options.http_tokens is {_shown(tokens)}, not 'required'."
    hops = _single(options, "httpPutResponseHopLimit")
    # True equals 1 in Python.
    if hops != HOP_LIMIT or isinstance(hops, bool):
        yield f"metadata_options.http_put_response_hop_limit is {_shown(hops)}, not {HOP_LIMIT}."


def no_key_pair(resource: Resource, _: Config) -> Iterator[str]:
    """No host has a key pair, and none is made."""
    if resource.type == KEY_PAIR:
        yield "A key pair is a way to log into hosts."
    elif resource.at("keyName") not in (None, ""):
        yield f"Hosts get the key pair {_shown(resource.at('keyName'))}."


def attestable_image(resource: Resource, config: Config) -> Iterator[str]:
    """At level 2 a host boots an image whose measurements the enclave knows."""
    if not attested_host(config):
        return
    amis = listed(AMIS.read(config))
    image = resource.at("ami" if resource.type in (INSTANCE, SPOT_INSTANCE) else "imageId")
    if not amis:
        yield "No attestable image is configured: set the property attestableAmis, or assuranceLevel to 1."
    elif image is UNKNOWN or image not in amis:
        yield f"The image {_shown(image)} is not one of attestableAmis, so no enclave would take its host for attested."


def no_login_in_user_data(resource: Resource, config: Config) -> Iterator[str]:
    """At level 2 a host's user data opens no way to log in."""
    if not attested_host(config):
        return
    for text in _user_data(resource):
        for pattern, what in _LOGIN.items():
            if re.search(pattern, text, re.IGNORECASE):
                yield f"The user data sets up {what}."


def no_debugging(resource: Resource, _: Config) -> Iterator[str]:
    """A host's user data starts no enclave in debug mode and attaches to no enclave's console."""
    for text in _user_data(resource):
        found = _DEBUG.search(text)
        if found:
            yield f"The user data says {found[0]!r}; the host could read all that a debug enclave prints and holds."


def no_recording(resource: Resource, _: Config) -> Iterator[str]:
    """A host's user data sets up nothing that keeps what a GPU worker holds in clear."""
    for text in _user_data(resource):
        for pattern, what in _RECORDING.items():
            if re.search(pattern, text, re.IGNORECASE):
                yield f"The user data sets up {what}, which would keep prompts and answers on the host."


def _user_data(resource: Resource) -> Iterator[str]:
    for name in ("userData", "userDataBase64"):
        text = _decoded(known(resource.at(name), name))
        if text is not None:
            yield text


def _decoded(value: Any) -> str | None:
    """User data as text; a launch template's is Base64, an instance's may be plain."""
    if not isinstance(value, str):
        return None
    try:
        data = base64.b64decode(value, validate=True)
        if data.startswith(_GZIP):
            data = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16).decompress(data, MOST_USER_DATA)
    except (binascii.Error, ValueError, zlib.error):
        return value
    return data.decode("utf-8", "replace")


def _single(block: Any, key: str) -> Any:
    """A key of a block that Pulumi shows as an object, or as a list of one."""
    values = [at(one, key) for one in listed(block)]
    return values[0] if len(values) == 1 else None


def _shown(value: Any) -> str:
    if value is UNKNOWN:
        return "not known before the update"
    return "not set" if value is None else repr(value)


RULES: Final[list[Rule]] = [
    ResourceRule(
        "gpu-host-enclave",
        enclave_enabled,
        types=(*HOSTS, *OLD_HOSTS),
        protects="Every GPU host can start an enclave: without one, nothing on it could hold a tenant's data key "
        "safely.",
        fix="Set enclave_options.enabled to true on every launch template and instance.",
    ),
    ResourceRule(
        "gpu-host-imdsv2",
        metadata_v2,
        types=(*HOSTS, CONFIGURATION),
        protects="The host role's credentials are not to be had by a forged request or from a container on the host.",
        fix="Set metadata_options.http_tokens to 'required' and http_put_response_hop_limit to 1.",
    ),
    ResourceRule(
        "gpu-host-no-key-pair",
        no_key_pair,
        types=(*HOSTS, CONFIGURATION, KEY_PAIR),
        protects="Nobody holds a key that opens a host on which tenants' prompts are worked on.",
        fix="Remove key_name and the key pair; hosts are replaced, not repaired.",
    ),
    ResourceRule(
        "gpu-host-no-debug-enclave",
        no_debugging,
        types=(*HOSTS, CONFIGURATION),
        protects="No host runs its enclave in debug mode, in which the host reads its console and memory.",
        fix="Start enclaves without --debug-mode and --attach-console.",
    ),
    ResourceRule(
        "gpu-host-no-recording",
        no_recording,
        types=(*HOSTS, CONFIGURATION),
        protects="No core dump, profiler, debugger, swap or log of requests keeps what tenants ask on a host.",
        fix="Remove it from the user data; look for faults on a host of a throw-away stack, with made-up prompts.",
    ),
    ResourceRule(
        "level-2-attestable-image",
        attestable_image,
        types=(*HOSTS, CONFIGURATION),
        settings=(LEVEL, AMIS),
        protects="At assurance level 2 the host runs an image that the enclave can tell by its NitroTPM measurements.",
        fix="Use an image of attestableAmis by its id, or claim level 1.",
    ),
    ResourceRule(
        "level-2-no-login-in-user-data",
        no_login_in_user_data,
        types=(*HOSTS, CONFIGURATION),
        settings=(LEVEL,),
        protects="At assurance level 2 nobody logs into a host, so none is prepared for it when it boots.",
        fix="Remove keys, passwords and login services from the user data, or claim level 1.",
    ),
]
