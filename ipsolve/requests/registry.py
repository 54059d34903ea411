"""Name tables: how a word in a configuration becomes a class, and a mapping an object of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Generic, TypeVar

from ipsolve.requests.errors import RequestError, did_you_mean, dotted
from ipsolve.requests.validation import build

T = TypeVar("T")
C = TypeVar("C", bound=type)


class Registry(Generic[T]):
    """Classes by their ``name``; an unknown name answers with the nearest known one."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._classes: dict[str, type[T]] = {}

    def register(self, cls: C) -> C:  # not type[T]: pydantic types what its decorator returns as another class
        """Class decorator: enter ``cls``, a dataclass, under its class attribute ``name``."""
        name: str = cls.name  # type: ignore[attr-defined]
        if not hasattr(cls, "__dataclass_fields__"):  # or nothing could be said of its settings when it is asked for
            raise TypeError(f"{self.kind} {name!r} must be a dataclass: @dataclass(frozen=True) below @register")
        if name in self._classes:
            raise ValueError(f"{self.kind} {name!r} is registered twice")
        self._classes[name] = cls
        return cls

    def parse(self, mapping: object, where: str, kind_key: str) -> T:
        """Return the object that ``{kind_key: NAME, field: value, ...}`` describes.

        Where the class has ``PRESETS``, fields by the name of a setting, the key ``preset`` may name one; fields that
        are written beside it override its own.

        Args:
            mapping: what a person wrote.
            where: dotted path of ``mapping`` in the request; it starts the message of an error.

        Raises:
            RequestError: no name or an unknown one, an unknown preset or key, or a value out of its range.
        """
        cls, fields = self.named(mapping, where, kind_key)
        presets: Mapping[str, Mapping[str, Any]] | None = getattr(cls, "PRESETS", None)
        preset = None if presets is None else fields.pop("preset", None)
        if presets is None or preset is None:
            return build(cls, fields, where)
        if preset not in presets:
            allowed = ", ".join(presets) or f"none, {cls.name} has no presets"  # type: ignore[attr-defined]
            reason = f"unknown preset {preset!r}{did_you_mean(preset, presets)}; allowed: {allowed}"
            raise RequestError(dotted(where, "preset"), reason)
        return build(cls, {**presets[preset], **fields}, where)

    def named(self, mapping: object, where: str, kind_key: str) -> tuple[type[T], dict[str, Any]]:
        """Return the class that ``{kind_key: NAME, ...}`` names and the other keys: the first half of :meth:`parse`."""
        if not isinstance(mapping, Mapping):
            raise RequestError(where, f"must be a mapping of keys to values (got {mapping!r})")
        name = mapping.get(kind_key)
        if name is None:
            raise RequestError(dotted(where, kind_key), f"is required; allowed: {', '.join(self)}")
        try:
            return self[str(name)], {key: value for key, value in mapping.items() if key != kind_key}
        except RequestError as error:
            raise RequestError(dotted(where, kind_key), error.reason) from None

    def __getitem__(self, name: str) -> type[T]:
        """Return the class called ``name``.

        Raises:
            RequestError: no such class; the message names the nearest one and all that exist.
        """
        if name in self._classes:
            return self._classes[name]
        raise RequestError("", f"unknown {self.kind} {name!r}{did_you_mean(name, self)}; allowed: {', '.join(self)}")

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._classes))

    def __len__(self) -> int:
        return len(self._classes)

    def __contains__(self, name: object) -> bool:
        return name in self._classes
