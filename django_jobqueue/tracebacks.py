"""Tracebacks as text, with a bound on frames, exceptions and characters, and cheap for jobs that fail alike.

Python's own module reads the source, and parses it to find what to underline, for each frame of each exception: that
takes about a millisecond for a job. The text of a frame depends only on its place in the code, so it is kept.
"""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Iterable, Iterator
from types import CodeType, TracebackType

#: Characters of a whole traceback. Beginning and end tell what happened.
LENGTH = 64_000
#: Frames of one exception: half of them from its beginning, half from its end.
FRAMES = 100
#: Exceptions that are shown of a chain of causes: half of them from its beginning, half from its end.
EXCEPTIONS = 10
#: Characters of the text of one exception.
MESSAGE_LENGTH = 8_000
#: Frames whose text is kept.
KEPT = 2_000
#: Python prints so many frames of a recursion, and then how many more there were.
REPEATED = 3

_texts: dict[tuple[int, int], tuple[CodeType, str]] = {}
_CAUSE = "\nThe above exception was the direct cause of the following exception:\n\n"
_CONTEXT = "\nDuring handling of the above exception, another exception occurred:\n\n"


def format_exception(error: BaseException) -> str:
    """Return the traceback as Python prints it, with the middle left out where it is too long."""
    chain = _chain(error)
    if any(isinstance(each, BaseExceptionGroup) for each, _ in chain):
        text = "".join(_of_group(error))
    else:
        text = "".join(_of_chain(chain))
    return shortened(text, LENGTH)


def shortened(text: str, length: int) -> str:
    """The text without its middle, if it is longer than that."""
    return text if len(text) <= length else f"{text[: length // 2]}\n[…]\n{text[-length // 2 :]}"


def _chain(error: BaseException) -> list[tuple[BaseException, str]]:
    """The exceptions that led to this one, the first one first; each with the sentence that follows it."""
    chain: list[tuple[BaseException, str]] = [(error, "")]
    seen = {id(error)}
    while True:
        last = chain[-1][0]
        cause, context = last.__cause__, last.__context__
        if cause is not None and id(cause) not in seen:
            chain.append((cause, _CAUSE))
        elif cause is None and context is not None and not last.__suppress_context__ and id(context) not in seen:
            chain.append((context, _CONTEXT))
        else:
            return chain[::-1]
        seen.add(id(chain[-1][0]))


def _of_chain(chain: list[tuple[BaseException, str]]) -> Iterator[str]:
    left_out = len(chain) - EXCEPTIONS
    for place, (error, sentence) in enumerate(chain):
        if left_out > 0 and EXCEPTIONS // 2 <= place < EXCEPTIONS // 2 + left_out:
            if place == EXCEPTIONS // 2:
                yield f"\n[… {left_out:,} exceptions …]\n\n"
            continue
        if error.__traceback__ is not None:
            yield "Traceback (most recent call last):\n"
            yield from _of_frames(error.__traceback__)
        yield shortened(_of_exception(error), MESSAGE_LENGTH)
        yield sentence


def _of_group(error: BaseException) -> Iterable[str]:
    whole = traceback.TracebackException.from_exception(error, limit=-FRAMES // 2, max_group_depth=4)
    return whole.format()


def _of_frames(entry: TracebackType | None) -> Iterator[str]:
    first: list[TracebackType] = []
    last: deque[TracebackType] = deque(maxlen=FRAMES // 2)
    number = 0
    while entry is not None:
        if number < FRAMES // 2:
            first.append(entry)
        else:
            last.append(entry)
        number += 1
        entry = entry.tb_next
    yield from _with_repetitions(first)
    if number > FRAMES:
        yield f"  [… {number - FRAMES:,} frames …]\n"
    yield from _with_repetitions(last)


def _with_repetitions(entries: Iterable[TracebackType]) -> Iterator[str]:
    previous, times = None, 0
    for entry in entries:
        place = (id(entry.tb_frame.f_code), entry.tb_lineno)
        if place != previous:
            yield _repetition(times)
            previous, times = place, 0
        times += 1
        if times <= REPEATED:
            yield _of_frame(entry)
    yield _repetition(times)


def _repetition(times: int) -> str:
    more = times - REPEATED
    return f"  [Previous line repeated {more} more time{'s' if more > 1 else ''}]\n" if more > 0 else ""


def _of_frame(entry: TracebackType) -> str:
    code = entry.tb_frame.f_code
    key = (id(code), entry.tb_lasti)  # the hash of a code object itself is computed from all of its instructions
    if (kept := _texts.get(key)) is not None and kept[0] is code:
        return kept[1]
    text = "".join(traceback.extract_tb(entry, limit=1).format())
    if len(_texts) >= KEPT:
        _texts.clear()
    _texts[key] = code, text
    return text


#: Python suggests names for these, or has more to say than their text.
_WITH_MORE = (SyntaxError, NameError, AttributeError, ImportError)


def _of_exception(error: BaseException) -> str:
    kind, notes = type(error), getattr(error, "__notes__", None) or []
    if isinstance(error, _WITH_MORE) or not isinstance(notes, list) or not all(type(note) is str for note in notes):
        return "".join(traceback.format_exception_only(error))
    name = (
        kind.__qualname__ if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}.{kind.__qualname__}"
    )
    try:
        text = str(error)
    except Exception:
        text = "<exception str() failed>"
    return "".join(f"{line}\n" for line in (f"{name}: {text}" if text else name, *notes))
