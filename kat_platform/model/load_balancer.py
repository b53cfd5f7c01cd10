"""VirtualLoadBalancer: the stable address of a workload, its ports, and when an instance is ready."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from kat_platform.errors import InvalidValue
from kat_platform.model.base import Model
from kat_platform.model.faults import Fault, exactly_one, refuse, repeated
from kat_platform.model.meta import Document
from kat_platform.model.scalars import Domain, Name, Port, Positive, Text, Whole, check_text

Protocol = Literal["TCP", "UDP"]


def check_url_path(text: str) -> str:
    """Check the path of a URL: begins with ``/``, no spaces or control characters."""
    check_text(text)
    if not text.startswith("/") or any(character <= " " or character == "\x7f" for character in text):
        raise InvalidValue(f"'{text[:80]}' is not a URL's path: start it with '/', without spaces")
    return text


UrlPath = Annotated[str, Field(max_length=4096), AfterValidator(check_url_path)]


def _default_container_port(data: dict[str, Any]) -> int:
    return int(data["port"])


def _default_port_name(data: dict[str, Any]) -> str:
    protocol = "" if data.get("protocol", "TCP") == "TCP" else "-udp"
    return f"port-{data['port']}{protocol}"


class BalancedPort(Model):
    """A port of the virtual address and the container's port behind it."""

    port: Port = Field(description="Port of the virtual address.")
    protocol: Protocol = Field(default="TCP", description="TCP or UDP.")
    name: Name = Field(
        default_factory=_default_port_name, description="Name, used in SRV records; port-NUMBER by default (UDP: -udp)."
    )
    container_port: Port = Field(
        default_factory=_default_container_port, description="Port the container listens on; by default the same."
    )
    node_port: Port | None = Field(
        default=None, description="Port of every node's own addresses that leads here too; it is open to the outside."
    )


class ExecCheck(Model):
    """Healthy when a command in the container ends with exit code 0."""

    command: tuple[Text, ...] = Field(min_length=1, description="Program and its arguments.")


class HttpCheck(Model):
    """Healthy when an HTTP GET is answered as expected."""

    path: UrlPath = Field(default="/", description="Path to get.")
    port: Port = Field(description="Port of the container; by default that of the first TCP port.")
    expected_status: Annotated[int, Field(strict=True, ge=100, le=599)] | None = Field(
        default=None, description="Status that means healthy; by default each from 200 to 399."
    )


class TcpCheck(Model):
    """Healthy when a connection is accepted."""

    port: Port = Field(description="Port of the container; by default that of the first TCP port.")


class HealthCheck(Model):
    """How readiness is found out: exactly one of exec, http and tcp."""

    exec: ExecCheck | None = Field(default=None, description="Run a command in the container.")
    http: HttpCheck | None = Field(default=None, description="Send an HTTP request.")
    tcp: TcpCheck | None = Field(default=None, description="Open a TCP connection.")
    initial_delay_seconds: Whole = Field(default=0, description="Seconds after the start before the first check.")
    period_seconds: Positive = Field(default=10, description="Seconds between checks.")
    timeout_seconds: Positive = Field(default=2, description="Seconds after which a check has failed.")
    success_threshold: Positive = Field(default=1, description="Successes in a row that make an instance ready.")
    failure_threshold: Positive = Field(default=3, description="Failures in a row that make it unready.")
    on_failure: Literal["Unready", "Restart"] = Field(
        default="Unready", description="What failing means: no traffic, or no traffic and a restart."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        kinds = {"exec": self.exec is not None, "http": self.http is not None, "tcp": self.tcp is not None}
        refuse(exactly_one((), kinds))
        return self


class Acme(Model):
    """A certificate obtained by ACME."""

    email: str | None = Field(
        default=None,
        max_length=254,
        pattern=r"^[^@\s]+@[^@\s]+$",
        description="Contact address given to the authority.",
    )


class IngressTls(Model):
    """Where the certificate comes from: exactly one of ``secretName`` and ``acme``."""

    secret_name: Name | None = Field(default=None, description="Secret with the keys tls.crt and tls.key.")
    acme: Acme | None = Field(default=None, description="Obtain it by ACME: write {}.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if "acme" in self.model_fields_set and self.acme is None and self.secret_name is None:
            refuse([Fault(("acme",), "acme is empty: write 'acme: {}'")])
        refuse(exactly_one((), {"secretName": self.secret_name is not None, "acme": self.acme is not None}))
        return self


class Ingress(Model):
    """A host name and path on the outside that lead to a port of this load balancer."""

    host: Domain = Field(description="Host name of the requests.")
    path: UrlPath = Field(default="/", description="Beginning of the requests' path.")
    port: Port = Field(description="One of this load balancer's ports (TCP); by default the first.")
    tls: IngressTls | None = Field(default=None, description="Serve HTTPS with this certificate.")


class VirtualLoadBalancerSpec(Model):
    """The ports, the health check and what leads here from outside."""

    ports: tuple[BalancedPort, ...] = Field(default=(), description="Ports of the virtual address.")
    health_check: HealthCheck | None = Field(
        default=None, description="When an instance is ready; without it, as soon as it runs."
    )
    ingress: tuple[Ingress, ...] = Field(default=(), description="Host names served by the cluster's ingress.")
    session_affinity: Literal["None", "ClientIP"] = Field(
        default="None", description="ClientIP: a client address keeps its instance."
    )

    @field_validator("health_check", mode="before")
    @classmethod
    def _default_check_port(cls, value: Any, info: ValidationInfo) -> Any:
        first = _first_tcp(info)
        if isinstance(value, dict) and first is not None:
            return {
                key: {"port": first.container_port, **check}
                if key in ("http", "tcp") and isinstance(check, dict) and "port" not in check
                else check
                for key, check in value.items()
            }
        return value

    @field_validator("ingress", mode="before")
    @classmethod
    def _default_ingress_port(cls, value: Any, info: ValidationInfo) -> Any:
        first = _first_tcp(info)
        if isinstance(value, list | tuple) and first is not None:
            return [
                {"port": first.port, **route} if isinstance(route, dict) and "port" not in route else route
                for route in value
            ]
        return value

    @model_validator(mode="after")
    def _check(self) -> Self:
        refuse(self._faults())
        return self

    def _faults(self) -> Iterator[Fault]:
        if not self.ports and self.health_check is None:
            yield Fault((), "there is nothing to balance: give at least one of ports")
        at = ("ports",)
        yield from repeated(at, "name", [port.name for port in self.ports], "port name")
        yield from repeated(at, "port", [(port.port, port.protocol) for port in self.ports], "port")
        node_ports = [(port.node_port, port.protocol) if port.node_port else None for port in self.ports]
        yield from repeated(at, "nodePort", node_ports, "nodePort")
        web = {port.port for port in self.ports if port.protocol == "TCP"}
        for index, route in enumerate(self.ingress):
            if route.port not in web:
                yield Fault(("ingress", index, "port"), f"{route.port} is none of this load balancer's TCP ports")
        yield from repeated(("ingress",), "host", [(route.host, route.path) for route in self.ingress], "route")


def _first_tcp(info: ValidationInfo) -> BalancedPort | None:
    return next((port for port in info.data.get("ports", ()) if port.protocol == "TCP"), None)


class VirtualLoadBalancer(Document):
    """The stable virtual address of the workload described beside it."""

    kind: Literal["VirtualLoadBalancer"] = Field(default="VirtualLoadBalancer", description="Kind of the document.")
    spec: VirtualLoadBalancerSpec = Field(description="Ports, health check, ingress.")
