"""Every name this driver uses on the machine, made from the agent's ``instance_tag`` so that no two agents meet."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b

from kat_platform.errors import InvalidValue

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True)
class Names:
    """The interface and table names of one agent; interface names have at most 15 characters in Linux."""

    tag: str

    def __post_init__(self) -> None:
        if not (1 <= len(self.tag) <= 6 and all(letter in _DIGITS for letter in self.tag)):
            raise InvalidValue(f"instance tag {self.tag!r} must be 1 to 6 characters of [a-z0-9]")

    @property
    def bridge(self) -> str:
        """The interface that holds the gateway address; DNS listens there."""
        return f"kat{self.tag}"

    @property
    def tunnel(self) -> str:
        """The WireGuard interface."""
        return f"wg{self.tag}"

    @property
    def veth_prefix(self) -> str:
        """What the host's end of every container's link starts with; no other tag's links start so."""
        return f"kv{self.tag}-"

    @property
    def veth_pattern(self) -> str:
        """:attr:`veth_prefix` as an nftables wildcard."""
        return f"{self.veth_prefix}*"

    @property
    def table(self) -> str:
        """The nftables table (family ``ip``)."""
        return f"kat_{self.tag}"

    def veth(self, instance_id: str, attempt: int = 0) -> str:
        """Name an instance's link: six base-36 digits of its id's hash; a higher ``attempt`` avoids a collision."""
        number = int.from_bytes(blake2b(f"{attempt}/{instance_id}".encode(), digest_size=8).digest())
        digits = ""
        for _ in range(6):
            number, digit = divmod(number, 36)
            digits += _DIGITS[digit]
        return self.veth_prefix + digits
