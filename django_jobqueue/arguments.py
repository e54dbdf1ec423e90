"""Arguments and results are data: one round trip through JSON, and an error that names what does not survive it."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from .compat import normalize_json
from .exceptions import InvalidResult


def normalise_call(
    func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], *, takes_context: bool = False
) -> tuple[list[Any], dict[str, Any]]:
    """The arguments as the task will get them: lists for tuples, strings for keys, nothing that a database refuses.

    Raise ``TypeError`` for what JSON cannot hold and ``ValueError`` for NaN, infinities, NUL characters and lone
    surrogates; the message names the argument.
    """
    try:
        plain_args, plain_kwargs = _round_trip([args, kwargs])
        return plain_args, plain_kwargs
    except (TypeError, ValueError, RecursionError):
        pass
    # Slow, and seldom needed: bytes and other mappings than dict pass here, and the culprit gets its name.
    name = f"{func.__module__}.{func.__qualname__}"
    normal = [
        _normalise(value, f"Argument {_label(func, place + takes_context)} of {name} cannot be enqueued")
        for place, value in enumerate(args)
    ]
    named = {key: _normalise(value, f"Argument {key!r} of {name} cannot be enqueued") for key, value in kwargs.items()}
    return normal, named


def call_as_json(
    func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], *, takes_context: bool = False
) -> tuple[str, str]:
    """The arguments as ``normalise_call`` makes them, in JSON. Raises the same."""
    try:
        if type(args) is tuple or isinstance(args, list | tuple):
            text = _array(args)
            if not kwargs:
                if not _is_suspicious(text):
                    return text, "{}"
            elif not (_is_suspicious(text) or _is_suspicious(named := _encode(kwargs))):
                return text, named
    except (TypeError, ValueError, RecursionError):
        pass
    plain_args, plain_kwargs = normalise_call(func, args, kwargs, takes_context=takes_context)
    return json.dumps(plain_args), json.dumps(plain_kwargs)


def normalise_result(value: Any) -> Any:
    """What a task returned, as it will be stored. Raise ``InvalidResult`` if it cannot be."""
    if value is None:
        return None
    try:
        return _round_trip(value)
    except (TypeError, ValueError, RecursionError):
        pass
    try:
        return _normalise(value, "The task's result cannot be stored")
    except (TypeError, ValueError) as error:
        raise InvalidResult(str(error)) from error


_encode = json.JSONEncoder(allow_nan=False).encode
#: Most arguments are a number or a string, and the encoder takes longer to get ready than to write these. Subclasses
#: and floats, which may be NaN, are left to it.
_PLAIN: dict[type, Callable[[Any], str]] = {int: int.__repr__, str: _encode}


def _array(args: list[Any] | tuple[Any, ...]) -> str:
    try:
        if len(args) == 1:
            return f"[{_PLAIN[type(args[0])](args[0])}]"
        return "[" + ", ".join([_PLAIN[type(arg)](arg) for arg in args]) + "]"
    except KeyError:
        return _encode(args)


def _round_trip(value: Any) -> Any:
    text = _encode(value)
    if _is_suspicious(text):
        for found in _strings(value):
            _check_text(found)
    return json.loads(text)


def _is_suspicious(text: str) -> bool:
    """Might there be what no database takes? ``_check_text`` knows.

    \\u0000 and \\ud800-\\udfff are how JSON spells NUL and surrogates. A pair of surrogates is an ordinary character,
    and the letters may also stand behind an escaped backslash.
    """
    return "\\u" in text and ("\\u0000" in text or "\\ud" in text)


def _normalise(value: Any, complaint: str) -> Any:
    try:
        return _round_trip(normalize_json(value))
    except RecursionError:
        raise ValueError(f"{complaint}: it is nested too deeply, or contains itself.") from None
    except TypeError as error:
        raise TypeError(f"{complaint}: {error}. Only JSON data can travel: pass an id or a string instead.") from error
    except ValueError as error:
        raise ValueError(f"{complaint}: {error}.") from error


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _strings(key)
            yield from _strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings(item)


def _check_text(text: str) -> None:
    if "\x00" in text:
        raise ValueError("it contains a NUL character, which databases do not store")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("it contains a lone surrogate, which is not a character") from None


def _label(func: Callable[..., Any], place: int) -> str:
    """The name of the positional parameter at this place, or its number."""
    try:
        kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        names = [item.name for item in inspect.signature(func).parameters.values() if item.kind in kinds]
        return repr(names[place])
    except (ValueError, IndexError):
        return str(place + 1)
