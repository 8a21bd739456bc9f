"""The rules for which URLs may be requested, and at which address: no server on this machine, its network or its cloud.

The rules follow the OWASP cheat sheet on server-side request forgery: https only, every address of a host must be
public, and the connection is made to the address that was checked. Sends nothing but DNS queries.
"""

import ipaddress
import socket
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from weights.network.failures import TransientFailure
from weights.network.network import Network

PORTS = {"https": 443, "http": 80}
# Hosts of this machine, its network or its cloud, whatever they resolve to
INTERNAL_SUFFIXES = (".internal", ".local", ".localhost", ".localdomain", ".home.arpa", ".lan")
NAT64 = ipaddress.ip_network("64:ff9b::/96")
NAT64_LOCAL = ipaddress.ip_network("64:ff9b:1::/48")
SAFE_IN_TARGET = "/?&=%:@!$'()*+,;~-._[]"
PRINTED_HOST = 100
# Special-purpose networks that older releases of Python consider global: RFC 6890, 7526 and 9637
SPECIAL_NETWORKS = tuple(map(ipaddress.ip_network, ("192.0.0.0/24", "192.88.99.0/24", "3fff::/20")))
# A service of Azure's virtual machines, at an address of the public internet
AZURE = ipaddress.ip_address("168.63.129.16")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class CheckedUrl:
    """A URL that may be requested."""

    scheme: str
    host: str
    port: int
    target: str  # path and query
    addresses: tuple[str, ...]  # all checked

    @property
    def origin(self) -> str:
        """scheme://host:port, always with the port."""
        return f"{self.scheme}://{self.host}:{self.port}"


def origin_of(url: str) -> str:
    """Return the origin of a URL in the form of CheckedUrl.origin; raises ValueError for a URL that cannot be read."""
    scheme, host, port, _ = _split_url(url)
    return f"{scheme}://{host}:{port}"


def check_url(url: str, network: Network) -> CheckedUrl:
    """Check a URL and resolve its host.

    Raises ValueError if the URL may not be requested, and TransientFailure if its host cannot be resolved at the
    moment. The messages complete a sentence that starts with the reference.
    """
    scheme, host, port, target = _split_url(url)
    origin = f"{scheme}://{host}:{port}"
    trusted = origin in {origin_of(trusted) for trusted in network.trusted}
    if not trusted:
        _check_public_https(scheme, host, port)
    addresses = _resolve(host, port, network)
    if not trusted and not all(is_public(address) for address in addresses):
        raise ValueError(f"leads to the host {_printable(host)}, which is not allowed: expected a public one")
    return CheckedUrl(scheme, host, port, target, tuple(addresses))


def is_public(text: str) -> bool:
    """Whether an address belongs to the public internet, and so does every IPv4 address embedded in it."""
    try:
        address = ipaddress.ip_address(text.split("%", 1)[0])
    except ValueError:
        return False
    return all(map(_is_public_itself, (address, *_embedded_ipv4(address))))


def _is_public_itself(address: Address) -> bool:
    embeds_ipv4 = address in NAT64 or (isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped)
    reserved = address.is_reserved and not embeds_ipv4  # such networks are reserved
    site_local = isinstance(address, ipaddress.IPv6Address) and address.is_site_local
    special = address == AZURE or any(address in network for network in SPECIAL_NETWORKS)
    return address.is_global and not (address.is_multicast or reserved or site_local or special)


def _embedded_ipv4(address: Address) -> tuple[Address, ...]:
    """Return the IPv4 addresses in an IPv6 address: mapped, 6to4, Teredo and NAT64 (RFC 4291, 3056, 4380, 6052)."""
    if isinstance(address, ipaddress.IPv4Address):
        return ()
    found: list[Address | None] = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if address in NAT64:
        found.append(ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF))
    if address in NAT64_LOCAL or int(address) >> 32 == 0:  # local NAT64, and the deprecated form ::a.b.c.d
        found.append(ipaddress.IPv4Address(0))
    return tuple(inner for inner in found if inner is not None)


def _split_url(url: str) -> tuple[str, str, int, str]:
    try:
        split = urlsplit(url)
        scheme, host, port = split.scheme.lower(), (split.hostname or "").lower().rstrip("."), split.port
    except ValueError as error:
        raise ValueError("leads to an invalid URL: expected https://host/path") from error
    if "@" in split.netloc or not host or scheme not in PORTS:
        raise ValueError(
            "leads to a URL with a user, without a host or with another scheme: expected https://host/path"
        )
    target = quote((split.path or "/") + (f"?{split.query}" if split.query else ""), safe=SAFE_IN_TARGET)
    return scheme, host, port or PORTS[scheme], target


def _check_public_https(scheme: str, host: str, port: int) -> None:
    if not host.isascii():
        raise ValueError(f"names the host {_printable(host)}, which is not allowed: expected one in ASCII letters")
    if host == "localhost" or host.endswith(INTERNAL_SUFFIXES):
        raise ValueError(f"leads to the host {_printable(host)}, which is not allowed: expected a public one")
    if scheme != "https":
        raise ValueError(f"leads to {scheme}://{_printable(host)}: expected https")
    if port != PORTS["https"]:
        raise ValueError(f"leads to port {port} of {_printable(host)}, which is not allowed: expected 443")


def _resolve(host: str, port: int, network: Network) -> list[str]:
    try:
        addresses = list(network.resolve(host, port))
    except UnicodeError as error:
        raise ValueError(f"names the host {_printable(host)}, which is not a valid host name") from error
    except socket.gaierror as error:
        if error.errno == socket.EAI_AGAIN:
            raise TransientFailure(
                f"needs the host {_printable(host)}, whose name cannot be looked up now", max_retries=1
            ) from error
        raise ValueError(f"names the host {_printable(host)}, which does not exist") from error
    if not addresses:
        raise ValueError(f"names the host {_printable(host)}, which has no address")
    return addresses


def _printable(host: str) -> str:
    return ascii(host[:PRINTED_HOST]).strip("'")
