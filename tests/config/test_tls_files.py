"""The TLS files of the listener and the backends are checked before anything is served by them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from gateway.config.errors import ConfigError
from gateway.config.load import load


def test_tls_files_that_cannot_be_used_are_errors_of_their_keys(tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("")
    pair = {"cert_file": "absent.pem", "key_file": "absent.key"}
    backends = {
        "a": {"endpoints": ["https://a.example"], "tls": {"ca_file": "empty.pem", "cert_file": "empty.pem"}},
        "b": {"endpoints": ["https://b.example"], "tls": {"cert_file": "empty.pem", "key_file": "empty.pem"}},
    }
    tree = {
        "tls": {"certificates": [pair], "client_ca_file": "absent.pem"},
        "backends": backends,
        "routes": [{"name": "r", "match": {"path_prefix": "/"}, "stable": "a"}],
    }
    path = tmp_path / "gateway.yaml"
    path.write_text(yaml.safe_dump(tree))
    with pytest.raises(ConfigError) as caught:
        load(path, for_serving=True)
    text = str(caught.value)
    for place in (
        "tls.certificates[0].cert_file: cannot use",
        "tls.client_ca_file: cannot use",
        "backends.a.tls.ca_file: cannot use",
        "backends.a.tls.cert_file: key_file is missing",
        "backends.b.tls.cert_file: cannot use",
    ):
        assert place in text, text
    assert load(path).tls is not None, "without being asked to serve, the files are not looked at"
