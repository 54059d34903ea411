"""Where files are: a local path, or a URI of any store that pyarrow or fsspec knows. One rule for output and data.

``s3://``, ``gs://``, ``abfs://`` and ``hdfs://`` are opened by pyarrow, other schemes by the fsspec package that
provides them. Credentials come from the environment or the files of the store's own tools and are refused in a URI.
Stores are reached within limits: one that is down, absent or silent is an error after seconds.
"""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

import pyarrow as pa
import pyarrow.fs as pafs

from ipsolve.requests.errors import RequestError
from ipsolve.requests.secrets import redact, refuse_secrets

T = TypeVar("T")

_LOCAL = ("file", "local")
_BY_PYARROW = ("s3", "gs", "gcs", "abfs", "abfss", "hdfs", "viewfs")
# of one request, by the client itself: a dead endpoint costs 2 s, a silent one half a minute
_S3_ATTEMPTS, _S3_SILENCE_SECONDS, _S3_CONNECT_SECONDS = 3, 10, 5
_GCS_SECONDS = 10
_S3_OPTIONS = ("region", "scheme", "endpoint_override")
_PAUSES = (1.0, 4.0, 15.0, 30.0)
_OF_STORE = re.compile(r"AWS Error|google::cloud|Azure")
_LASTING = re.compile(
    r"ACCESS_DENIED|NO_SUCH_|INVALID_ACCESS_KEY_ID|SIGNATURE_DOES_NOT_MATCH|INVALID_SIGNATURE|EXPIRED_TOKEN|"
    r"UNRECOGNIZED_CLIENT|PERMISSION_DENIED|UNAUTHENTICATED|NOT_FOUND|HTTP status 40[0134]|OAuth2"
)


def is_uri(location: str | Path) -> bool:
    """Return whether a location is a URI and not a local path."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", str(location)) is not None


def join(location: str, *parts: str) -> str:
    """Return the location of something under ``location``: the query of a URI stays at its end."""
    place, mark, query = location.partition("?") if is_uri(location) else (location, "", "")
    return "/".join((place.rstrip("/"), *parts)) + mark + query


def open_location(location: str | Path, key: str = "output") -> tuple[pafs.FileSystem, str]:
    """Return the filesystem of a location, and the path of the location in it. Most often nothing is asked of it yet.

    Args:
        location: a path or a URI.
        key: of the configuration, for messages.

    Raises:
        RequestError: the scheme is unknown, its package is absent, the URI is malformed or holds a secret.
    """
    text = str(location)
    if "\0" in text:
        raise RequestError(key, "must not hold a NUL character")
    if not is_uri(text):
        return pafs.LocalFileSystem(), os.path.abspath(text)
    refuse_secrets(text, key)
    scheme = text.partition("://")[0].lower()
    try:
        if scheme in _LOCAL:
            filesystem, path = pafs.FileSystem.from_uri("file" + text[len(scheme) :])
        elif scheme == "s3":
            filesystem, path = _s3(text)
        elif scheme in ("gs", "gcs"):
            filesystem, path = _gcs(text)
        elif scheme in _BY_PYARROW:
            filesystem, path = pafs.FileSystem.from_uri(text)
        else:
            filesystem, path = _by_fsspec(text)
    except RequestError as error:
        raise RequestError(key, str(error)) from None
    except (OSError, ValueError, ImportError, pa.ArrowException) as error:
        raise RequestError(key, f"cannot open {redact(text)!r}: {reason(error)}") from None
    if ".." in path.split("/"):  # an object store would take it for a name, a filesystem for a way out
        raise RequestError(key, f"must not hold '..' (got {text!r})")
    return filesystem, path.rstrip("/") or path


def is_object_store(filesystem: pafs.FileSystem) -> bool:
    """Return whether files appear whole or not at all and folders need not be made, because there are none."""
    return filesystem.type_name in ("s3", "gcs", "abfs")


def is_local(filesystem: pafs.FileSystem) -> bool:
    return isinstance(filesystem, pafs.LocalFileSystem)


def patiently(action: Callable[[], T], pauses: Sequence[float] | None = None) -> T:
    """Return ``action()``, tried again where a store may answer differently in a while, for a minute at most.

    On top of what clients do: they give up within seconds, and a batch that was solved for minutes is worth more.

    Raises:
        OSError: the last one, or at once what no patience mends (absent, denied, a full disk).
    """
    for pause in _PAUSES if pauses is None else pauses:
        try:
            return action()
        except OSError as error:
            if not _may_pass(error):
                raise
            time.sleep(pause)
    return action()


def require_local(path: str | Path, key: str) -> None:
    """Raise RequestError if ``path`` is a URI: what a prior is made of is read from and written to a disk."""
    if is_uri(path):
        raise RequestError(key, f"must be a local folder (got {str(path)!r}); copy it to or from a store yourself")


# a decoder asked for a place that damaged bytes name and no file has
_OF_CONTENT = (errno.EINVAL, errno.EOVERFLOW)


def is_of_store(error: OSError) -> bool:
    """Return whether a store or a system call failed: pyarrow says OSError of damaged data, too."""
    if error.errno in _OF_CONTENT:
        return False
    return error.errno is not None or isinstance(error, TimeoutError) or _OF_STORE.search(str(error)) is not None


def _may_pass(error: OSError) -> bool:
    # errors of system calls have a number and last; those of stores do not, or that of a socket
    if isinstance(error, TimeoutError | ConnectionError):
        return True
    return error.errno is None and is_of_store(error) and not _LASTING.search(str(error))


def reason(error: BaseException) -> str:
    """Return why a store or a path failed, in one line for a person."""
    text = " ".join(str(error).split())
    bucket = re.search(r"bucket '([^']*)'", text)
    named = f"bucket {bucket[1]!r}" if bucket else "bucket"
    if "NO_SUCH_BUCKET" in text or "Bucket not found" in text:
        return f"there is no {named}"
    if re.search(r"ACCESS_DENIED|INVALID_ACCESS_KEY_ID|SIGNATURE_DOES_NOT_MATCH|INVALID_CLIENT|HTTP status 403", text):
        return (
            f"access to {named} is denied; credentials are taken from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in "
            "the environment, or from ~/.aws"
        )
    if "NETWORK_CONNECTION" in text:
        detail = re.search(r"curlCode: \d+, (?P<short>[^;]*)(?:; Details: (?P<long>.*?))?(?: \(Request ID.*)?$", text)
        return f"the store does not answer ({(detail['long'] or detail['short']) if detail else text})"[:400]
    if "OAuth2 access token" in text:
        return "no credentials for Google Cloud; they are taken from GOOGLE_APPLICATION_CREDENTIALS in the environment"
    if isinstance(error, OSError) and error.strerror and error.errno is not None:
        return error.strerror
    return redact(text or type(error).__name__)[:400]


def _s3(uri: str) -> tuple[pafs.FileSystem, str]:
    parts = urlsplit(uri)
    options = dict(parse_qsl(parts.query))
    unknown = [name for name in options if name not in _S3_OPTIONS]
    if unknown:
        raise RequestError(f"unknown option {unknown[0]!r} of an s3 URI; allowed: {', '.join(_S3_OPTIONS)}")
    if not parts.netloc:
        raise RequestError("an s3 URI names a bucket: s3://BUCKET/FOLDER")
    # not FileSystem.from_uri: it waits minutes for a silent store, takes three requests for a small file, and its
    # filesystems forget the limits when they are pickled. The variables are those that the AWS tools read.
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if endpoint and "endpoint_override" not in options:
        refuse_secrets(endpoint, "AWS_ENDPOINT_URL")
        scheme, _, host = endpoint.rpartition("://")
        options = {"endpoint_override": host.rstrip("/"), "scheme": scheme or "https"} | options
    if "endpoint_override" not in options and "region" not in options:
        options["region"] = pafs.resolve_s3_region(parts.netloc)
    if "region" not in options:
        options["region"] = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    filesystem = pafs.S3FileSystem(
        **options,
        connect_timeout=_S3_CONNECT_SECONDS,
        request_timeout=_S3_SILENCE_SECONDS,
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=_S3_ATTEMPTS),
        allow_delayed_open=True,  # one PUT for a small file in place of three requests
    )
    return filesystem, parts.netloc + unquote(parts.path)


def _gcs(uri: str) -> tuple[pafs.FileSystem, str]:
    parts = urlsplit(uri)
    options = dict(parse_qsl(parts.query))
    unknown = [name for name in options if name not in ("scheme", "endpoint_override")]
    if unknown:
        raise RequestError(f"unknown option {unknown[0]!r} of a gs URI; allowed: scheme, endpoint_override")
    if not parts.hostname:
        raise RequestError("a gs URI names a bucket: gs://BUCKET/FOLDER")
    filesystem = pafs.GcsFileSystem(
        **options, anonymous=parts.username == "anonymous", retry_time_limit=timedelta(seconds=_GCS_SECONDS)
    )
    return filesystem, parts.netloc.rpartition("@")[2] + unquote(parts.path)


def _by_fsspec(uri: str) -> tuple[pafs.FileSystem, str]:
    import fsspec

    filesystem, path = fsspec.core.url_to_fs(uri)
    return pafs.PyFileSystem(pafs.FSSpecHandler(filesystem)), str(path)
