"""The web configuration: what is taken, what is refused when it is read, and that no secret is repeated."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from web_configurations import HASH, MUTUAL, PASSWORD, TLS, TOKENS, USERS

from rlhf_otel import password_hash, settings
from rlhf_otel.cli import commands
from rlhf_otel.errors import ConfigurationError
from rlhf_otel.servers import http_client
from rlhf_otel.web_config import load

BCRYPT = "$2b$04$......................XM6Wrx.jMuKIqPjUYZPTuTHzZ0GsCVW"
PROMTOOL = shutil.which("promtool")


def write(folder: Path, text: str) -> Path:
    path = folder / "web.yaml"
    path.write_text(text)
    return path


def refusal(folder: Path, text: str) -> str:
    with pytest.raises(ConfigurationError) as refused:
        load(write(folder, text))
    return str(refused.value)


def test_what_is_served_by_default(tmp_path: Path) -> None:
    web = load(write(tmp_path, "# nothing\n"))
    assert (web.context, web.users, web.tokens, web.warning) == (None, {}, (), "")


@pytest.mark.parametrize("text", [TLS, MUTUAL, USERS, TOKENS, MUTUAL + USERS + TOKENS])
def test_whole_configurations(folder: Path, text: str) -> None:
    web = load(write(folder, text))
    assert (web.context is not None) == ("tls" in text)
    assert web.warning == ""


@pytest.mark.servers
@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed")
@pytest.mark.parametrize(
    "text", [TLS, MUTUAL, TLS + "  min_version: TLS13\nhttp_server_config: {http2: false}\n"]
)
def test_it_is_what_prometheus_exporters_take(folder: Path, text: str) -> None:
    path = write(folder, text + f"basic_auth_users:\n  prometheus: {BCRYPT}\n")
    subprocess.run([str(PROMTOOL), "check", "web-config", str(path)], check=True, capture_output=True)
    pytest.importorskip("bcrypt")
    assert load(path).context is not None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tls_server_config: {cert_file: server.crt}", "tls_server_config.key_file: Field required"),
        (TLS.replace("server.key", "absent.key"), "absent.key cannot be read: No such file"),
        (TLS.replace("server.key", "client.key"), "client.key is not the key of"),
        (TLS.replace("server.key", "server.crt"), "are no certificate and key in PEM"),
        (TLS.replace("server.crt", "server.ext"), "are no certificate and key in PEM"),
        (TLS.replace("server.key", "locked.key"), "locked.key is encrypted"),
        (MUTUAL.replace("ca.crt", "server.key"), "server.key holds no certificate"),
        (MUTUAL.replace("ca.crt", "absent.crt"), "absent.crt cannot be read"),
        (TLS + "  client_ca_file: ca.crt\n", "go together"),
        (TLS + "  client_auth_type: RequireAndVerifyClientCert\n", "go together"),
        (TLS + "  client_auth_type: RequireAnyClientCert\n", "is not supported"),
        (TLS + "  client_allowed_sans: [a]\n", "client_allowed_sans needs"),
        (TLS + "  min_version: TLS10\n", "min_version: Input should be"),
        (TLS + "  min_version: TLS13\n  max_version: TLS12\n", "min_version is above"),
        (TLS + "  cipher_suites: [TLS_AES_128_GCM_SHA256]\n", "cipher_suites: Extra inputs"),
        ("tls_config: {}", "tls_config: Extra inputs"),
        ("basic_auth_users: {a: b}", "basic_auth_users.a is no hash"),
        (f"basic_auth_users: {{'a:b': '{HASH}'}}", "must not be empty nor have a colon"),
        ("basic_auth_users: [a]", "basic_auth_users: Input should be"),
        ("bearer_tokens:\n" + "".join(f"  t{i}: {HASH}\n" for i in range(9)), "at most 8"),
        ("- a", "must be a mapping"),
        ("a: [", "web.yaml is not YAML: line 1: "),
        ("a: &a [*a]", "is not YAML"),
    ],
)
def test_refused_when_it_is_read(folder: Path, text: str, said: str) -> None:
    assert said in refusal(folder, text)


def test_a_bomb_of_aliases_is_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x]"] + [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 40)]
    assert "unfold to too much" in refusal(tmp_path, "\n".join(lines))


@pytest.mark.parametrize(
    "text",
    [f"basic_auth_users: {{a: {PASSWORD}}}", f"password: {PASSWORD}", f"basic_auth_users: {PASSWORD}", f"- {PASSWORD}",
     f"a: [{PASSWORD}", f"bearer_tokens: {{a: [{PASSWORD}]}}"],
)  # fmt: skip
def test_a_secret_in_a_wrong_place_is_not_repeated(tmp_path: Path, text: str) -> None:
    assert PASSWORD not in refusal(tmp_path, text)


def test_a_certificate_that_is_over_is_told_and_served(folder: Path) -> None:
    """A job that starts again at night must not die of it."""
    web = load(write(folder, TLS.replace("server.", "expired.")))
    assert "certificate has expired" in web.warning
    assert web.context is not None


def test_the_settings_refuse_it_at_construction(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        settings.load(metrics_web_config=tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    "given_", ["a.example, b.example", ("a.example", "b.example"), ["a.example", "b.example"]]
)
def test_names_as_text_and_as_list(given_: object) -> None:
    assert settings.load(metrics_allowed_hosts=given_).metrics_allowed_hosts == ("a.example", "b.example")


def test_names_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLHF_OTEL_METRICS_ALLOWED_HOSTS", "a.example,b.example")
    assert settings.load().metrics_allowed_hosts == ("a.example", "b.example")


@given(
    st.binary(max_size=400) | st.text(max_size=400).map(lambda text: text.encode("utf-8", "surrogatepass"))
)
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(content)
    for read in (load, http_client.load):
        with contextlib.suppress(ConfigurationError):
            read(path)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20) | st.just(HASH) | st.just("server.crt"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
PART = st.dictionaries(
    st.sampled_from(["cert_file", "key_file", "client_auth_type", "client_ca_file", "min_version", "client_allowed_sans",
                     "ca_file", "username", "password", "credentials", "type"]), VALUES, max_size=5,
)  # fmt: skip
KEYS = ["tls_server_config", "http_server_config", "basic_auth_users", "bearer_tokens"]
CLIENT_KEYS = ["tls_config", "basic_auth", "authorization"]


@given(st.dictionaries(st.sampled_from(KEYS + CLIENT_KEYS), PART | VALUES, max_size=4))
def test_any_mapping_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: dict[str, object]
) -> None:
    import yaml

    path = tmp_path_factory.getbasetemp() / "mapping.yaml"
    path.write_text(yaml.safe_dump(content))
    for read in (load, http_client.load):
        with contextlib.suppress(ConfigurationError):
            read(path)


# --- hashes


@given(st.binary(max_size=80), st.binary(max_size=80))
def test_a_hash_matches_its_secret_alone(secret: bytes, other: bytes) -> None:
    cheap = password_hash.Scrypt(b"s" * 16, b"", 10, 1, 1)
    made = password_hash.Scrypt(cheap.salt, cheap._derive(secret, 32), 10, 1, 1)
    again = password_hash.parse(str(made))
    assert again.matches(secret)
    # HMAC, on which scrypt is built, fills a short key with zeros
    assert (
        again.matches(other) == (secret.rstrip(b"\0") == other.rstrip(b"\0") or secret == other)
        or len(other) > 64
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "secret",
        "$scrypt$ln=14,r=8,p=5$short$short",
        "$scrypt$ln=30,r=8,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA",
        "$scrypt$ln=14,r=0,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA",
        "$scrypt$ln=14,r=8,p=99$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA",
        "$scrypt$ln=2,r=8,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA",
        "$scrypt$ln=14,r=8,p=1$AAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAA",
        "$2b$31$......................XM6Wrx.jMuKIqPjUYZPTuTHzZ0GsCVW",
    ],
)
def test_what_is_no_hash(text: str) -> None:
    with pytest.raises(ValueError, match=r"^(is|asks|has) ") as refused:
        password_hash.parse(text)
    assert not text or text not in str(refused.value)


def test_bcrypt() -> None:
    bcrypt = pytest.importorskip("bcrypt")
    found = password_hash.parse(bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode())
    assert found.matches(b"secret")
    assert not found.matches(b"secrets")
    assert not found.matches(b"s" * 100)


def test_bcrypt_that_is_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "bcrypt", None)
    with pytest.raises(ValueError, match=r"pip install 'rlhf-otel\[bcrypt\]'"):
        password_hash.parse(BCRYPT)


# --- the command


def test_the_command_reads_standard_input() -> None:
    done = CliRunner().invoke(commands, ["hash-password"], input="secret\n")
    assert done.exit_code == 0
    assert password_hash.parse(done.stdout.strip()).matches(b"secret")
    assert "secret" not in done.stdout
    assert CliRunner().invoke(commands, ["hash-password"], input="\n").exit_code == 1


def test_the_command_makes_a_token() -> None:
    done = CliRunner().invoke(commands, ["hash-password", "--token"])
    token = done.stderr.strip()
    assert len(token) >= 40
    assert password_hash.parse(done.stdout.strip()).matches(token.encode())


def test_a_terminal_says_which_is_the_token() -> None:
    main, terminal = os.openpty()
    command = [sys.executable, "-c", "from rlhf_otel.cli import main; main()", "hash-password", "--token"]
    subprocess.run(command, stdout=terminal, stderr=terminal, check=True)
    os.close(terminal)
    token, hashed, said = os.read(main, 4096).decode().splitlines()
    os.close(main)
    assert hashed.startswith("$scrypt$")
    assert token not in hashed
    assert said.startswith("The first is the token")
