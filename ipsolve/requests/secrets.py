"""Secrets come from the environment and stay there: they are refused in requests and blotted out of texts.

What is secret is told by the names of environment variables and of the parts of a URI, so that a value which is
secret but called by an innocent name passes: this is a net below the rule, not the rule.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

from ipsolve.requests.errors import RequestError

BLOT = "[secret]"
_FOLDERS = ("PWD", "OLDPWD")  # of every shell: where it is and was
_SHORTEST = 8  # of a value: shorter ones are words such as "token" and "false", and would blot out half of a text
_SECRET_NAME = re.compile(
    r"token(?!izers)|secret|passw|passphrase|credential|signature|^sig$|(api|account|access|shared)_?key|"
    r"connection_?str|odbc_connect|(^|[_-])(key|pwd)([_-]|$)",
    re.I,
)
# the password of a URI, or all that stands before the @ where http asks for it: that may be a token as well. A slash
# or an @ in a password should be escaped, and many who take URIs do not insist; a number before a slash is a port.
_USER_INFO = re.compile(
    r"(?P<start>\b[a-z][a-z0-9+.-]*://)(?P<user>[^\s/@:'\"]*)(?P<password>:(?!\d{1,5}[/?])[^\s'\"]*)?@", re.I
)
_QUERY = re.compile(r"(?P<start>[?&;](?P<name>[\w.-]+)=)(?P<value>[^\s&;'\"]+)")

INSTEAD = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "gcs": "GOOGLE_APPLICATION_CREDENTIALS",
    "abfs": "AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET",
    "abfss": "AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET",
}
_TRACKING = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (or MLFLOW_TRACKING_TOKEN)"


def redact(text: str) -> str:
    """Return ``text`` without the values of secret environment variables and without the passwords of URIs."""
    return _redact(text, _values())


def redact_all(content: Any) -> Any:
    """Return JSON-like content with every text in it redacted; keys are ours and stay."""
    values = _values()  # once: the environment is long, and every batch of a run writes JSON

    def redacted(content: Any) -> Any:
        if isinstance(content, str):
            return _redact(content, values)
        if isinstance(content, Mapping):
            return {key: redacted(value) for key, value in content.items()}
        return [redacted(value) for value in content] if isinstance(content, list | tuple) else content

    return redacted(content)


def _redact(text: str, values: Iterable[str]) -> str:
    for value in values:
        text = text.replace(value, BLOT)
    text = _USER_INFO.sub(lambda m: f"{m['start']}{BLOT}@" if _is_secret_user(m) else m[0], text)
    return _QUERY.sub(lambda m: f"{m['start']}{BLOT}" if _SECRET_NAME.search(m["name"]) else m[0], text)


def refuse_secrets(content: object, where: str) -> None:
    """Raise RequestError if a URI anywhere in ``content`` holds a password, key or token; it would be recorded.

    Args:
        content: what a person wrote: a text, or mappings and lists of texts.
        where: the key it stands under; the message starts with it and does not repeat the secret.
    """
    if isinstance(content, Mapping):
        for key, value in content.items():
            refuse_secrets(value, f"{where}.{key}" if where else str(key))
    elif isinstance(content, list | tuple):
        for value in content:
            refuse_secrets(value, where)
    elif isinstance(content, str) and "://" in content and _holds_secret(content):
        scheme = content.partition("://")[0].lower()
        variables = _TRACKING if "tracking" in where else INSTEAD.get(scheme, "the environment variables of its client")
        reason = "must not hold a password, key or token, it would be recorded"
        raise RequestError(where, f"{reason}; allowed: {variables} in the environment")


def _holds_secret(uri: str) -> bool:
    user = _USER_INFO.search(uri)
    if user is not None and _is_secret_user(user):
        return True
    try:
        names = [name for name, value in parse_qsl(urlsplit(uri).query) if value]
    except ValueError:  # not a URI after all, such as one with half a bracket; whoever opens it says so
        return False
    return any(_SECRET_NAME.search(name) for name in names)


def _is_secret_user(found: re.Match[str]) -> bool:
    # sftp://me@host and abfs://container@account name who or what, s3://KEY@bucket is half of a key
    return bool(found["password"]) or found["start"].lower() in ("http://", "https://", "s3://")


def _values() -> list[str]:
    """Return the secrets of this process as they may stand in a text, long ones first: one may hold another."""
    found: set[str] = set()
    for name, value in os.environ.items():
        if name not in _FOLDERS and _SECRET_NAME.search(name) and len(value) >= _SHORTEST:
            lines = [line.strip() for line in value.splitlines() if len(line.strip()) >= _SHORTEST]
            found |= {value, quote(value, safe=""), " ".join(value.split()), repr(value)[1:-1], *lines}
    return sorted(found, key=len, reverse=True)
