"""The grammars of single values: addresses, endpoints, hosts, path prefixes, header names.

Each function takes the text of a value and returns it parsed or normalised, or raises BadValue, which says what is
wrong and how to fix it.

Sources: RFC 3986 section 3.2 (authority), RFC 9110 section 5.6.2 (token), RFC 1123 section 2.1 (host names).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from gateway.config.errors import BadValue, show
from gateway.core.traffic.table import Endpoint

Network = IPv4Network | IPv6Network
UNIX = "unix:"
# The shortest limit of the systems that have such sockets.
_SOCKET_BYTES_MAX = 103

_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_PORT = re.compile(r"[0-9]{1,5}")
_MODEL_NAME = re.compile(r"[A-Za-z0-9._~@+/-]+")
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_ROUTE_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_BACKEND_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_DIGEST_DIGITS = {"sha256": 64, "md5": 32}
_ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FRAMING_HEADERS = frozenset(
    {"connection", "content-length", "expect", "host", "keep-alive", "proxy-connection"}
    | {"te", "trailer", "transfer-encoding", "upgrade"}
)


@dataclass(frozen=True)
class Address:
    """Where to listen: a host name or IP address (IPv6 without brackets) and a port, 0 for any free one."""

    host: str
    port: int

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def overlaps(self, other: Address) -> bool:
        """Whether both could not be listened on at once: same port, and same host or one of them every host."""
        if self.port != other.port or self.port == 0:
            return False
        hosts = {"127.0.0.1" if host == "localhost" else host for host in (self.host, other.host)}
        return len(hosts) == 1 or not hosts.isdisjoint(("0.0.0.0", "::"))  # noqa: S104 - compared, not bound

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class UnixSocket:
    """Where to listen: a Unix-domain socket's path. Its file mode says who may connect."""

    path: str
    # Only this machine can reach it.
    loopback = True

    def __str__(self) -> str:
        return f"{UNIX}{self.path}"


def parsed_by(parse: Callable[[str], object], *kinds: type) -> Callable[[object], object]:
    """A validator that parses text, and lets through what was parsed already."""

    def validate(value: object) -> object:
        if isinstance(value, kinds):
            return value
        if not isinstance(value, str):
            raise BadValue(f"{show(value)} is not text", "write it in quotes")
        return parse(value)

    return validate


def address(text: str) -> Address:
    """``host:port`` with a port from 0 to 65535; IPv6 in brackets."""
    host, port = _split_authority(text)
    if host in ("", "*"):
        raise BadValue(f"{show(text)} has no host", f"write 0.0.0.0:{port or 'PORT'} to listen on every interface")
    if port is None:
        raise BadValue(f"{show(text)} has no port", f"write host:port, such as {_bracketed(host)}:8080")
    return Address(host, _port(text, port, least=0))


def admin_address(text: str) -> Address | UnixSocket:
    """As `address`, or ``unix:/path`` with an absolute path."""
    if not text.startswith(UNIX):
        return address(text)
    path = text.removeprefix(UNIX)
    if not path.startswith("/") or path.endswith("/") or not path.isprintable():
        hint = "write unix: and an absolute path, as in unix:/run/gateway.sock"
        raise BadValue(f"{show(text)} is not the path of a socket", hint)
    if path.startswith("//"):
        raise BadValue(f"{show(text)} is written as a URL", f"write {UNIX}/{path.lstrip('/')}")
    if len(path.encode()) > _SOCKET_BYTES_MAX:
        raise BadValue(f"the path has {len(path.encode())} bytes", f"use one of at most {_SOCKET_BYTES_MAX}")
    return UnixSocket(path)


def endpoint(text: str) -> Endpoint:
    """An http or https URL of a host and, if it is not the scheme's own, a port; nothing else."""
    if "@" in text:
        # Not shown: it may hold a password.
        raise BadValue("the URL holds a user name or password", "remove everything up to and including the @")
    scheme, mark, rest = text.partition("://")
    if not mark:
        raise BadValue(f"{show(text)} is not an http or https URL", f"write http://{_plain(text) or 'HOST:PORT'}")
    scheme = scheme.lower()
    if scheme not in ("http", "https"):
        raise BadValue(f"{show(text)} is not an http or https URL", "begin it with http:// or https://")
    cut = re.search(r"[/?#]", rest)
    authority = rest[: cut.start()] if cut else rest
    if cut and rest[cut.start() :] != "/":
        what = {"/": "a path", "?": "a query", "#": "a fragment"}[cut.group()]
        raise BadValue(
            f"{show(text)} has {what}; an endpoint is scheme, host and port only",
            f"write {scheme}://{_plain(authority)}",
        )
    host, port = _split_authority(authority)
    if not host:
        raise BadValue(f"{show(text)} has no host", f"write {scheme}://HOST:PORT")
    tls = scheme == "https"
    return Endpoint(host, (443 if tls else 80) if port is None else _port(text, port, least=1), tls)


def web_url(text: str) -> str:
    """An http or https URL with whatever path and query; no user name, no fragment, nothing but visible ASCII."""
    if re.search(r"[^\x21-\x7e]", text):
        raise BadValue(f"{show(text)} holds spaces or characters outside ASCII", "percent-encode them")
    if "#" in text:
        raise BadValue(f"{show(text)} has a fragment, which is never sent", "remove everything from # on")
    scheme, _, rest = text.partition("://")
    endpoint(f"{scheme}://{re.split(r'[/?]', rest, maxsplit=1)[0]}" if rest else text)
    return text


def _split_authority(text: str) -> tuple[str, str | None]:
    """Host (lower case, no brackets, may be empty) and port text of ``host[:port]``."""
    if text.startswith("["):
        inside, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise BadValue(f"{show(text)} is not host:port", "write an IPv6 address as [::1]:8080")
        return _ipv6(inside), rest[1:] if rest else None
    if text.count(":") > 1:
        raise BadValue(f"{show(text)} has more than one colon", "write an IPv6 address in brackets, as in [::1]:8080")
    host, colon, port = text.partition(":")
    return host if host in ("", "*") else host_name(host), port if colon else None


def _ipv6(text: str) -> str:
    try:
        parsed = IPv6Address(text)
    except ValueError:
        raise BadValue(f"{show(text)} is not an IPv6 address", "write one such as ::1") from None
    if parsed.scope_id is not None:
        raise BadValue(f"{show(text)} has a zone", "remove the part from % on")
    return str(parsed)


def _port(text: str, port: str, least: int) -> int:
    if _PORT.fullmatch(port) and least <= int(port) <= 65535:
        return int(port)
    wanted = f"from {least} to 65535"
    raise BadValue(f"the port of {show(text)} is not a number {wanted}", f"use a port {wanted}")


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _plain(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.:_\[\]-].*", "", text, flags=re.DOTALL)[:80]


def host_name(text: str) -> str:
    """A host name or IPv4 address, in lower case; the dot behind an absolute name is left out."""
    text = text.removesuffix(".") if len(text) > 1 else text
    if not text.isascii():
        raise BadValue(f"the host {show(text)} is not ASCII", "write its punycode form (xn--...)")
    if not _HOST.fullmatch(text) or len(text) > 253:
        raise BadValue(f"{show(text)} is not a host name", "use letters, digits, hyphens and dots")
    if text.rpartition(".")[2].isdigit():
        try:
            return str(ip_address(text))
        except ValueError:
            raise BadValue(f"{show(text)} is not an IP address", "write one such as 127.0.0.1, or a name") from None
    return text.lower()


def route_host(text: str) -> str:
    """A host as it stands in a Host header, without the port; IPv6 in brackets."""
    if text.startswith("[") and text.endswith("]"):
        return f"[{_ipv6(text[1:-1])}]"
    if ":" in text:
        raise BadValue(f"{show(text)} has a port", "use the host alone; routes do not look at the port")
    if "*" in text:
        raise BadValue(f"{show(text)} is a pattern", "list each host; an empty list means every host")
    return host_name(text)


def path_prefix(text: str) -> str:
    """A path prefix as it is compared with the decoded path of a request."""
    if not text.startswith("/"):
        raise BadValue(f"{show(text)} does not begin with /", f"write {show('/' + text)}")
    for char, what in (("?", "a query"), ("#", "a fragment")):
        if char in text:
            raise BadValue(f"{show(text)} has {what}", f"remove it from {char} on; routes look at the path alone")
    if "%" in text:
        raise BadValue(f"{show(text)} is percent-encoded", "write it decoded, as requests are when compared")
    if any(ord(char) < 0x20 or ord(char) == 0x7F for char in text):
        raise BadValue(f"{show(text)} holds control characters", "remove them")
    segments = text.split("/")[1:]
    if any(segment in (".", "..") for segment in segments):
        raise BadValue(f"{show(text)} has a '.' or '..' segment", "write the path without it")
    if "" in segments[:-1]:
        raise BadValue(f"{show(text)} has an empty segment", "write single slashes")
    return text


def probe_path(text: str) -> str:
    """The origin-form target of a probe: a path, perhaps with a query, in visible ASCII."""
    if not text.startswith("/"):
        raise BadValue(f"{show(text)} does not begin with /", f"write {show('/' + text)}")
    if "#" in text or not all(0x21 <= ord(char) <= 0x7E for char in text):
        raise BadValue(f"{show(text)} holds a space, # or another character that a URL cannot", "percent-encode it")
    return text


def token(text: str, what: str) -> str:
    """A token of HTTP (RFC 9110, 5.6.2): a pseudonym, a protocol's name."""
    return _token(text, what)


def header_name(text: str) -> str:
    """A header's name, in lower case; not one that frames or addresses the message."""
    name = _token(text, "header").lower()
    if name in _FRAMING_HEADERS:
        raise BadValue(f"{show(text)} is reserved by the protocol", "use another header, such as x-user")
    return name


def target_path(text: str) -> str:
    """A path as it stands in a request's first line: percent-encoded, without a query."""
    probe_path(text)
    if "?" in text:
        raise BadValue(f"{show(text)} has a query", "remove it from ? on; the client's query stays as it is")
    return text


def field_value(text: str) -> str:
    """Text that can stand in a header field."""
    if any((char < " " and char != "\t") or char > "\xff" or char == "\x7f" for char in text):
        raise BadValue(f"{show(text)} holds characters that no header field can have", "use visible Latin characters")
    return text


def matching(pattern: re.Pattern[str], problem: str, hint: str) -> Callable[[str], str]:
    """A check that text matches as a whole; ``problem`` follows the text in the error."""

    def checked(text: str) -> str:
        if not pattern.fullmatch(text):
            raise BadValue(f"{show(text)} {problem}", hint)
        return text

    return checked


def model_name(text: str) -> str:
    """A model's name as it stands in a path."""
    if not _MODEL_NAME.fullmatch(text):
        raise BadValue(f"{show(text)} cannot stand in a path", "use letters, digits and - . _ ~ / @ +")
    return text


def cookie_name(text: str) -> str:
    """A cookie's name."""
    return _token(text, "cookie")


def _token(text: str, what: str) -> str:
    if not _TOKEN.fullmatch(text):
        raise BadValue(f"{show(text)} is not a {what} name", "use letters, digits and hyphens, no space or colon")
    return text


def route_name(text: str) -> str:
    """1 to 63 of ``a-z``, ``0-9`` and inner hyphens: it stands in URLs and labels."""
    if not _ROUTE_NAME.fullmatch(text):
        raise BadValue(f"{show(text)} is not a route name", "use 1 to 63 of a-z, 0-9 and hyphens inside")
    return text


def backend_name(text: str) -> str:
    """1 to 63 letters, digits and inner dots, hyphens, underscores."""
    if not _BACKEND_NAME.fullmatch(text):
        raise BadValue(f"{show(text)} is not a backend name", "use 1 to 63 letters, digits and, inside, . _ -")
    return text


def printable(text: str) -> str:
    """Text on one line."""
    if not text.isprintable():
        raise BadValue(f"{show(text)} is not printable text on one line", "remove what does not print")
    return text


def digest(text: str) -> str:
    """An artifact's digest with the name of its algorithm, or nothing.

    >>> digest("md5:" + "0" * 32) == "md5:" + "0" * 32
    True
    """
    kind, _, value = text.partition(":")
    if text and not (len(value) == _DIGEST_DIGITS.get(kind) and set(value) <= set("0123456789abcdef")):
        kinds = " or ".join(f"{name}: and {digits} hexadecimal digits" for name, digits in _DIGEST_DIGITS.items())
        raise BadValue(f"{show(text)} is not a digest", f"use {kinds}, in lower case")
    return text


def environment_name(text: str) -> str:
    """The name of an environment variable."""
    if not _ENVIRONMENT_NAME.fullmatch(text):
        # Not shown: a token pasted in the place of a name is a likely error.
        raise BadValue("this is not the name of an environment variable", "use the name alone, such as GATEWAY_TOKEN")
    return text


def network(text: str) -> Network:
    """An address range in CIDR notation without host bits; a lone address is a range of one."""
    try:
        return ip_network(text)
    except ValueError:
        pass
    try:
        wide = ip_network(text, strict=False)
    except ValueError:
        raise BadValue(f"{show(text)} is not an address range", "write it as 10.0.0.0/8 or fd00::/8") from None
    raise BadValue(f"{show(text)} has host bits set", f"write {wide}")


def file_path(text: str) -> str:
    """A path of the file system."""
    if not text or "\0" in text:
        raise BadValue(f"{show(text)} is not a path", "use a path, absolute or relative to this file")
    if text.startswith("~"):
        raise BadValue(f"{show(text)} begins with ~, which is not expanded here", "write the full path")
    return text
