"""What the gateway reads of a certificate: the names it is for, and when it ends.

A walk over DER (X.690: tag, length, value) as far as RFC 5280, section 4.1 goes: Certificate → TBSCertificate →
validity, and the extension subjectAltName (section 4.2.1.6) with its DNS names. The standard library decodes
certificates only of peers that it has verified; nothing is verified here, the TLS library does that.
"""

from __future__ import annotations

import calendar
import ssl
import time
from pathlib import Path

import msgspec

_SEQUENCE, _CONTEXT_0, _CONTEXT_3, _OID, _OCTETS = 0x30, 0xA0, 0xA3, 0x06, 0x04
_UTC_TIME, _DNS_NAME = 0x17, 0x82
_SUBJECT_ALT_NAME = bytes((0x55, 0x1D, 0x11))
_END = "-----END CERTIFICATE-----"


class Certificate(msgspec.Struct, frozen=True):
    """``names`` in lower case, some with a leading ``*.``; ``not_after_s`` as seconds since the Unix epoch."""

    names: tuple[str, ...]
    not_after_s: float

    def fits(self, host: str) -> bool:
        """Whether the certificate is for this host (RFC 6125: a wildcard is the whole leftmost label).

        >>> Certificate(("*.a.de",), 0.0).fits("X.a.de"), Certificate(("*.a.de",), 0.0).fits("x.y.a.de")
        (True, False)
        """
        host = host.lower().rstrip(".")
        return host in self.names or f"*.{host.partition('.')[2]}" in self.names


def read_certificate(path: Path) -> Certificate:
    """The first certificate of a PEM file. Raises OSError, or ValueError when it has none."""
    head, end, _ = path.read_text(encoding="latin-1").partition(_END)
    try:
        return parse_certificate(ssl.PEM_cert_to_DER_cert(head[head.find("-----BEGIN CERTIFICATE-----") :] + end))
    except (ValueError, IndexError) as error:
        raise ValueError(f"{path} has no readable certificate ({error})") from None


def parse_certificate(der: bytes) -> Certificate:
    """From DER. Raises ValueError or IndexError for what is not a certificate."""
    ((_, certificate),) = _items(der)
    fields = _items(_items(certificate)[0][1])
    if fields[0][0] == _CONTEXT_0:  # the version
        fields = fields[1:]
    # serialNumber, signature, issuer, validity, subject, subjectPublicKeyInfo, ...
    not_after = _items(fields[3][1])[1]
    names: tuple[str, ...] = ()
    for tag, value in fields[6:]:
        if tag == _CONTEXT_3:
            names = _alternative_names(value)
    return Certificate(names, _time_s(*not_after))


def _alternative_names(extensions: bytes) -> tuple[str, ...]:
    for _, extension in _items(_items(extensions)[0][1]):
        parts = _items(extension)
        if parts[0] == (_OID, _SUBJECT_ALT_NAME) and parts[-1][0] == _OCTETS:
            names = _items(_items(parts[-1][1])[0][1])
            return tuple(value.decode("ascii").lower() for tag, value in names if tag == _DNS_NAME)
    return ()


def _time_s(tag: int, value: bytes) -> float:
    text = value.decode("ascii")
    if tag == _UTC_TIME:  # two digits of the year: 50 and above are 19xx
        text = ("19" if text[:2] >= "50" else "20") + text
    return float(calendar.timegm(time.strptime(text, "%Y%m%d%H%M%SZ")))


def _items(data: bytes) -> list[tuple[int, bytes]]:
    """The elements, (tag, value), that follow each other in ``data``."""
    out = []
    at = 0
    while at < len(data):
        tag, length = data[at], data[at + 1]
        at += 2
        if length & 0x80:
            count = length & 0x7F
            length = int.from_bytes(data[at : at + count], "big")
            at += count
        if at + length > len(data):
            raise ValueError("an element is longer than the data")
        out.append((tag, data[at : at + length]))
        at += length
    return out
