"""Rules at assurance level 2: no way to log into a host by Systems Manager, SSH or a serial console."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from policies.enclave.levels import LEVEL, attested_host
from policies.enclave.roles import ATTACHMENTS, POLICIES_OF_ROLES, ROLE, attached, documents
from policies.rule import UNKNOWN, Config, Resource, ResourceRule, Rule, known, like, listed

ENDPOINT: Final = "aws:ec2/vpcEndpoint:VpcEndpoint"
LOGIN_RESOURCES: Final = {
    "aws:ssm/activation:Activation": "registers hosts with Systems Manager",
    "aws:ssm/association:Association": "runs Systems Manager documents on hosts",
    "aws:ssm/maintenanceWindowTask:MaintenanceWindowTask": "runs Systems Manager documents on hosts",
    "aws:ec2transitgateway/instanceConnectEndpoint:InstanceConnectEndpoint": "opens SSH and RDP to private hosts",
    "aws:ssm/serviceSetting:ServiceSetting": "may let Systems Manager manage every host of the account",
}
SERVICE: Final = "aws:ecs/service:Service"
SERIAL_CONSOLE: Final = "aws:ec2/serialConsoleAccess:SerialConsoleAccess"

SESSION_ACTIONS: Final = (
    "ssm:UpdateInstanceInformation",
    "ssmmessages:CreateControlChannel",
    "ssmmessages:OpenControlChannel",
    "ssmmessages:CreateDataChannel",
    "ssmmessages:OpenDataChannel",
    "ec2messages:GetMessages",
)
"""What the Systems Manager agent needs in order to be given sessions and commands."""
SESSION_SERVICES: Final = ("ssmmessages", "ec2messages", "ec2-instance-connect")
SESSION_POLICIES: Final = ("arn:*:iam::aws:policy/*SSM*", "arn:*:iam::aws:policy/*Ec2InstanceConnect*")

INGRESS_RULE: Final = "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule"
GROUP_RULE: Final = "aws:ec2/securityGroupRule:SecurityGroupRule"
GROUP: Final = "aws:ec2/securityGroup:SecurityGroup"
DEFAULT_GROUP: Final = "aws:ec2/defaultSecurityGroup:DefaultSecurityGroup"
LOGIN_PORTS: Final = {22: "SSH", 3389: "RDP"}


def no_session(resource: Resource, config: Config) -> Iterator[str]:
    """Nothing lets Systems Manager, Instance Connect or a serial console open a session on a host."""
    if not attested_host(config):
        return
    if resource.type in LOGIN_RESOURCES:
        yield f"This resource {LOGIN_RESOURCES[resource.type]}."
    elif resource.type == SERIAL_CONSOLE:
        # The default of the argument is true.
        if resource.at("enabled") is not False:
            yield "The account's serial consoles are opened."
    elif resource.type == SERVICE:
        if resource.at("enableExecuteCommand") not in (None, False, "false"):
            yield "enableExecuteCommand opens a shell in its containers."
    elif resource.type == ENDPOINT:
        service = str(known(resource.at("serviceName"), "serviceName"))
        if service.rsplit(".", 1)[-1] in SESSION_SERVICES:
            yield f"The endpoint {service} carries sessions to hosts."
    else:
        yield from _managed_hosts(resource)


def _managed_hosts(resource: Resource) -> Iterator[str]:
    for arn in attached(resource):
        if any(like(str(known(arn, "policyArn")), pattern) for pattern in SESSION_POLICIES):
            yield f"The policy {arn} lets Systems Manager manage the host."
    for statement in documents(resource):
        reached = statement.reaches_any(SESSION_ACTIONS) if statement.allow else []
        if reached:
            yield f"{statement.label} allows {reached[0]}, by which Systems Manager opens sessions."


def no_login_port(resource: Resource, config: Config) -> Iterator[str]:
    """No security group admits a port that one logs in by."""
    if not attested_host(config):
        return
    for rule in _ingress(resource):
        protocol, low, high = rule
        for port, name in LOGIN_PORTS.items():
            if UNKNOWN in rule:
                known(UNKNOWN, "fromPort")
            if str(protocol).lower() in ("-1", "all") or (
                str(protocol).lower() in ("tcp", "6") and _within(port, low, high)
            ):
                yield f"{name} (port {port}) is let in."


def _ingress(resource: Resource) -> Iterator[tuple[Any, Any, Any]]:
    """Protocol, first and last port of everything that a resource lets in."""
    if resource.type == INGRESS_RULE:
        yield resource.at("ipProtocol"), resource.at("fromPort"), resource.at("toPort")
    elif resource.type == GROUP_RULE:
        if resource.at("type") != "egress":
            yield resource.at("protocol"), resource.at("fromPort"), resource.at("toPort")
    else:
        for rule in listed(resource.at("ingress")):
            if rule is UNKNOWN:
                known(UNKNOWN, "ingress")
            yield rule.get("protocol"), rule.get("fromPort"), rule.get("toPort")


def _within(port: int, low: Any, high: Any) -> bool:
    # No ports at all are all ports.
    if low is None or high is None:
        return True
    return float(low) <= port <= float(high)


RULES: Final[list[Rule]] = [
    ResourceRule(
        "level-2-no-session",
        no_session,
        types=(*LOGIN_RESOURCES, SERIAL_CONSOLE, SERVICE, ENDPOINT, ROLE, *POLICIES_OF_ROLES, *ATTACHMENTS),
        settings=(LEVEL,),
        protects="At assurance level 2 nobody opens a session on a host: whoever did could read the worker's memory.",
        fix="Remove ECS Exec and Session Manager's endpoints, policies and settings (mrgc:session_manager: false), or "
        "claim level 1.",
    ),
    ResourceRule(
        "level-2-no-login-port",
        no_login_port,
        types=(INGRESS_RULE, GROUP_RULE, GROUP, DEFAULT_GROUP),
        settings=(LEVEL,),
        protects="At assurance level 2 no host can be reached by SSH or RDP.",
        fix="Let in the ports that the platform serves and no others, or claim level 1.",
    ),
]
