"""Which URLs may be asked at all, and at which address: nothing of this machine, its network or its cloud.

The rules are those of OWASP's cheat sheet on server-side request forgery: https only, every address that a name has
must be public, and the connection goes to the very address that was checked. Sends nothing but a question for a name.
"""

import ipaddress
import socket
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from weights.network.failures import TransientFailure
from weights.network.network import Network

PORTS = {"https": 443, "http": 80}
# names that mean this machine, its network or its cloud, whatever they resolve to
INNER_NAMES = (".internal", ".local", ".localhost", ".localdomain", ".home.arpa", ".lan")
NAT64 = ipaddress.ip_network("64:ff9b::/96")
NAT64_LOCAL = ipaddress.ip_network("64:ff9b:1::/48")
SAFE_IN_TARGET = "/?&=%:@!$'()*+,;~-._[]"
PRINTED_HOST = 100
# neither of the internet nor anybody's, which older releases of Python take for global: RFC 6890, 7526 and 9637
NOBODYS = tuple(map(ipaddress.ip_network, ("192.0.0.0/24", "192.88.99.0/24", "3fff::/20")))

# which Azure gives to every machine for a service of its own, though it is one of the internet's addresses
AZURE = ipaddress.ip_address("168.63.129.16")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Place:
    """A URL that was checked."""

    scheme: str
    host: str
    port: int
    target: str  # path and query
    addresses: tuple[str, ...]  # each was checked

    @property
    def origin(self) -> str:
        """scheme://host:port, the port always written."""
        return f"{self.scheme}://{self.host}:{self.port}"


def origin_of(url: str) -> str:
    """The origin of a URL, written as a Place writes it; raises ValueError with the end of a sentence."""
    scheme, host, port, _ = _parts(url)
    return f"{scheme}://{host}:{port}"


def check_url(url: str, network: Network) -> Place:
    """The checked place of a URL.

    Raises ValueError with the end of a sentence if it may not be asked, TransientFailure if its name cannot be looked up
    just now.
    """
    scheme, host, port, target = _parts(url)
    origin = f"{scheme}://{host}:{port}"
    trusted = origin in {origin_of(trusted) for trusted in network.trusted}
    if not trusted:
        _check_outside(scheme, host, port)
    addresses = _look_up(host, port, network)
    if not trusted and not all(is_public(address) for address in addresses):
        raise ValueError(f"leads to the host {_shown(host)}, which is not allowed: expected a public one")
    return Place(scheme, host, port, target, tuple(addresses))


def is_public(text: str) -> bool:
    """Whether an address belongs to the public internet, also behind every way to write one inside another."""
    try:
        address = ipaddress.ip_address(text.split("%", 1)[0])
    except ValueError:
        return False
    return all(map(_is_public_alone, (address, *_inside(address))))


def _is_public_alone(address: Address) -> bool:
    carried = address in NAT64 or (isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped)
    reserved = address.is_reserved and not carried  # these two are, though they can carry a public one
    site_local = isinstance(address, ipaddress.IPv6Address) and address.is_site_local
    nobodys = address == AZURE or any(address in network for network in NOBODYS)
    return address.is_global and not (address.is_multicast or reserved or site_local or nobodys)


def _inside(address: Address) -> tuple[Address, ...]:
    """The IPv4 addresses that an IPv6 address carries: mapped, 6to4, Teredo and NAT64 (RFC 4291, 3056, 4380, 6052)."""
    if isinstance(address, ipaddress.IPv4Address):
        return ()
    found: list[Address | None] = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if address in NAT64:
        found.append(ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF))
    if address in NAT64_LOCAL or int(address) >> 32 == 0:  # local translation, and the old form ::a.b.c.d
        found.append(ipaddress.IPv4Address(0))
    return tuple(inner for inner in found if inner is not None)


def _parts(url: str) -> tuple[str, str, int, str]:
    try:
        split = urlsplit(url)
        scheme, host, port = split.scheme.lower(), (split.hostname or "").lower().rstrip("."), split.port
    except ValueError as error:
        raise ValueError("leads to a URL that cannot be read: expected https://host/path") from error
    if "@" in split.netloc or not host or scheme not in PORTS:
        raise ValueError("leads to a URL with a user, without a host or of another kind: expected https://host/path")
    target = quote((split.path or "/") + (f"?{split.query}" if split.query else ""), safe=SAFE_IN_TARGET)
    return scheme, host, port or PORTS[scheme], target


def _check_outside(scheme: str, host: str, port: int) -> None:
    if not host.isascii():
        raise ValueError(f"names the host {_shown(host)}, which is not allowed: expected one in ASCII letters")
    if host == "localhost" or host.endswith(INNER_NAMES):
        raise ValueError(f"leads to the host {_shown(host)}, which is not allowed: expected a public one")
    if scheme != "https":
        raise ValueError(f"leads to {scheme}://{_shown(host)}: expected https")
    if port != PORTS["https"]:
        raise ValueError(f"leads to port {port} of {_shown(host)}, which is not allowed: expected 443")


def _look_up(host: str, port: int, network: Network) -> list[str]:
    try:
        addresses = list(network.resolve(host, port))
    except UnicodeError as error:
        raise ValueError(f"names the host {_shown(host)}, which is no name of a host") from error
    except socket.gaierror as error:
        if error.errno == socket.EAI_AGAIN:
            raise TransientFailure(
                f"needs the host {_shown(host)}, whose name cannot be looked up now", most=1
            ) from error
        raise ValueError(f"names the host {_shown(host)}, which does not exist") from error
    if not addresses:
        raise ValueError(f"names the host {_shown(host)}, which has no address")
    return addresses


def _shown(host: str) -> str:
    return ascii(host[:PRINTED_HOST]).strip("'")
