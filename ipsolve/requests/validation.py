"""From a mapping of a request to a checked object, or one line that says what is wrong."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar, get_args, get_type_hints

from pydantic import BaseModel, TypeAdapter, ValidationError

from ipsolve.requests.errors import RequestError, did_you_mean, dotted
from ipsolve.requests.secrets import refuse_secrets

T = TypeVar("T")

_UNKNOWN = ("unexpected_keyword_argument", "extra_forbidden")
_MISSING = ("missing", "missing_argument", "missing_keyword_only_argument")
_SMALLEST, _LARGEST = 1e-30, 1e30  # in size, of numbers that float32 can work with: it ends at 1e-38 and 3e38


def build(cls: type[T], mapping: object, where: str) -> T:
    """Return ``cls(**mapping)`` for a pydantic dataclass or model, with types and ranges checked.

    Args:
        cls: the class; its field types carry the ranges.
        mapping: what the user wrote under the key ``where``.
        where: dotted path of ``mapping`` in the request, such as ``solvers.resample``; it starts the message. Empty for
            the request itself.

    Raises:
        RequestError: one line for the first fault, for example a secret in a URI,
            ``solvers.resample.num_steps: must be greater than 0 (got -3)`` or
            ``tasks.sr4.facter: unknown key (did you mean 'factor'?); allowed: factor``.
    """
    if not isinstance(mapping, Mapping):
        raise RequestError(where or "config", f"must be a mapping of keys to values (got {mapping!r})")
    refuse_secrets(mapping, where)
    not_words = [key for key in mapping if not isinstance(key, str)]
    if not_words:
        raise RequestError(where or "config", f"keys must be words (got {not_words[0]!r})")
    if dataclasses.is_dataclass(cls):  # one that does not forbid them would take unknown keys without a word
        names = field_names(cls)
        for key in mapping:
            if key not in names:
                raise unknown_key(where, key, names)
        _refuse_truth_values(cls, mapping, where)
    try:
        made = TypeAdapter(cls).validate_python(dict(mapping))
    except ValidationError as error:
        raise _explain(cls, mapping, where, error) from None
    _refuse_absurd_numbers(made, where)
    return made


def _refuse_absurd_numbers(content: object, where: str) -> None:
    """Raise RequestError for a number with which nothing can be computed: not finite, or beyond any use.

    Args:
        content: what was made of a request, after its numbers in quotes and YAML's ``1e300``, a text, became numbers.
    """
    if names := field_names(type(content)):
        for name in names:
            _refuse_absurd_numbers(getattr(content, name), dotted(where, name))
    elif isinstance(content, Mapping):
        for key, value in content.items():
            _refuse_absurd_numbers(value, dotted(where, str(key)))
    elif isinstance(content, list | tuple):
        for index, value in enumerate(content):
            _refuse_absurd_numbers(value, dotted(where, str(index)))
    elif isinstance(content, float) and not math.isfinite(content):
        raise RequestError(where, f"must be a finite number (got {content})")
    elif isinstance(content, float) and content and not _SMALLEST <= abs(content) <= _LARGEST:
        raise RequestError(where, f"must be 0, or of a size from {_SMALLEST:g} to {_LARGEST:g} (got {content})")
    elif isinstance(content, int) and not -(2**63) <= content < 2**63:
        raise RequestError(where, f"must be less than {2**63} (got {content})")


def _refuse_truth_values(cls: object, mapping: Mapping[str, Any], where: str) -> None:
    """Raise RequestError for a true or false where a number belongs: pydantic would take it for 1 or 0."""
    hints = get_type_hints(cls)
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            if (inner := _type_of(cls, key)) is not None:
                _refuse_truth_values(
                    inner, {name: value[name] for name in value if name in get_type_hints(inner)}, dotted(where, key)
                )
        elif any(isinstance(each, bool) for each in (value if isinstance(value, list | tuple) else [value])):
            kinds = set(_flat(hints[key]))
            if kinds & {int, float} and not kinds & {bool, Any}:
                raise RequestError(dotted(where, key), f"must be a number (got {str(value).lower()})")


def _flat(hint: object) -> Iterator[object]:
    """Yield the types that a hint is made of, down through unions and containers."""
    yield type(hint) if isinstance(hint, bool) else hint
    for part in get_args(hint):
        yield from _flat(part)


def unknown_key(where: str, key: str, allowed: Iterable[str]) -> RequestError:
    """Return the error for a key that nothing knows, with the nearest key and all allowed ones."""
    names = list(allowed)
    listed = f"; allowed: {', '.join(names)}" if names else "; no keys are allowed here"
    return RequestError(dotted(where, key), f"unknown key{did_you_mean(key, names)}{listed}")


def field_names(cls: object) -> list[str]:
    """Return the names of the fields of a dataclass or pydantic model, in order; empty for other types."""
    if isinstance(cls, type) and issubclass(cls, BaseModel):
        return list(cls.model_fields)
    return [f.name for f in dataclasses.fields(cls) if f.init] if dataclasses.is_dataclass(cls) else []


def _explain(cls: type, mapping: object, where: str, error: ValidationError) -> RequestError:
    # an unknown key first: a missing one beside it is most often the same key misspelt
    faults = sorted(error.errors(), key=lambda fault: fault["type"] not in _UNKNOWN)
    fault = faults[0]
    kind, location = fault["type"], fault["loc"]
    path, owner = _locate(cls, mapping, location, keep_last=kind in _MISSING)
    if kind in _UNKNOWN:
        return unknown_key(dotted(where, *path[:-1]), path[-1], field_names(owner))
    spot = dotted(where, *path)
    if kind in _MISSING:
        return RequestError(spot, "is required")
    if "ctx" in fault and "error" in fault["ctx"]:
        return RequestError(spot, str(fault["ctx"]["error"]))
    if kind == "too_short":
        return RequestError(spot, "must not be empty")
    message = re.sub(r"^\w+ should (be )?", lambda found: "must be " if found[1] else "must ", fault["msg"])
    words = [choice for other in faults if other["type"] == "literal_error" for choice in [other["ctx"]["expected"]]]
    if words and kind != "literal_error":  # of a union such as a number or 'auto' pydantic names one branch at a time
        message += f", or {words[0]}"
    return RequestError(spot, f"{message} (got {fault['input']!r})".replace("\n", " "))


def _locate(cls: object, value: Any, location: tuple[int | str, ...], keep_last: bool) -> tuple[list[str], object]:
    """Return the path of a fault in the user's own words and the class that owns its last key.

    pydantic also puts the branches of a union into a location; those are not keys of the user and are left out.
    """
    path: list[str] = []
    owner = cls
    for index, part in enumerate(location):
        if path:
            owner = _type_of(owner, path[-1])
        if part in (value if isinstance(value, Mapping) else range(len(value)) if isinstance(value, list) else ()):
            value = value[part]
        elif not (keep_last and index == len(location) - 1):
            continue
        path.append(str(part))
    return path, owner


def _type_of(owner: object, name: str) -> object:
    """Return the class behind field ``name`` of ``owner``, looking through optionals and containers."""
    hints = get_type_hints(owner) if field_names(owner) else {}
    if name not in hints:  # a key of a dict or an index of a list, whose values are of the class found already
        return owner
    hint = hints[name]
    candidates = [hint, *get_args(hint)]
    return next((each for each in candidates if field_names(each)), None)
