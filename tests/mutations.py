"""Ways to damage a file: JSON with one thing changed, bytes lost or flipped, or other columns."""

import copy
import json
import math

import hypothesis.strategies as st
import pyarrow as pa

NUMBERS = [0, 1, -1, 2, 3, 7, 10**6, 10**9, 2**63, -(2**31), 10**40, 0.5, -0.0, 1e-300, 1e308]
NUMBERS += [math.nan, math.inf, -math.inf]
WORDS = ["", "x", "nan", "../x", "a" * 300, "\ud800", "\x00", "é\u2028", "float16", "asv", "1/0"]
ODD = st.sampled_from([None, True, False, *NUMBERS, *WORDS, [], {}, [[]], [None], {"": None}])


@st.composite
def changed(draw, value):
    """Change one place in a JSON value: another kind, another size, gone, twice, or moved."""
    value = holder = copy.deepcopy({"": value})
    key = ""
    while isinstance(holder[key], dict | list) and holder[key] and draw(st.integers(0, 4)):
        holder = holder[key]
        keys = sorted(holder) if isinstance(holder, dict) else range(len(holder))
        key = draw(st.sampled_from(list(keys)))
    old = holder[key]
    how = draw(st.sampled_from(["odd", "odd", "odd", "drop", "wrap", "add", "scale", "text"]))
    if how == "drop" and holder is not value:
        del holder[key]
    elif how == "wrap":
        holder[key] = draw(st.sampled_from([[old], {"a": old}, [old] * 3]))
    elif how == "add" and isinstance(old, dict):
        old[draw(st.sampled_from([*WORDS, *old]))] = draw(ODD)
    elif how == "scale" and isinstance(old, int | float) and not isinstance(old, bool):
        holder[key] = draw(st.sampled_from([-old, old + 1, old - 1, old * 2, old / 2, old * 1000]))
    elif how == "text":
        holder[key] = str(old)
    else:
        holder[key] = draw(ODD)
    return value[""]


DEEP = b"[" * 100_000
BYTES = [b"", b"\x00", b"\xff\xfe", b"{}", b"[]", b"null", b"1", b'"x"', DEEP, b"9" * 5000]
BYTES += [b'{"a":' * 5000, b"\xef\xbb\xbf{}", b'"\\ud800"', b"version https://git-lfs\n"]


@st.composite
def damaged(draw, data: bytes):
    """Damage bytes: cut off, flipped, put in, or others altogether."""
    at = draw(st.integers(0, max(0, len(data) - 1)))
    how = draw(st.sampled_from(["cut", "flip", "put", "other", "lose"]))
    if how == "cut":
        return data[:at]
    if how == "flip" and data:
        return data[:at] + bytes([data[at] ^ (1 << draw(st.integers(0, 7)))]) + data[at + 1 :]
    if how == "put":
        return data[:at] + draw(st.sampled_from(BYTES)) + data[at:]
    if how == "lose":
        return data[:at] + data[at + draw(st.integers(1, 40)) :]
    return draw(st.sampled_from(BYTES) | st.binary(max_size=40))


@st.composite
def bad_json(draw, data: bytes):
    """Change a JSON file in one or two places, or damage its bytes."""
    if not draw(st.integers(0, 3)):
        return draw(damaged(data))
    value = json.loads(data)
    for _ in range(draw(st.integers(1, 2))):
        value = draw(changed(value))
    return json.dumps(value).encode()


@st.composite
def bad_frame(draw, frame):
    """Change one column of a table: gone, renamed, of another kind, or another value in it."""
    name = draw(st.sampled_from(list(frame.columns)))
    how = draw(st.sampled_from(["drop", "rename", "text", "odd", "empty", "all"]))
    if how == "drop":
        frame = frame.drop(columns=name)
    elif how == "rename":
        frame = frame.rename(columns={name: draw(st.sampled_from(["x", "", *frame.columns]))})
    elif how == "empty":
        frame = frame[:0]
    elif how == "text":
        frame = frame.assign(**{name: frame[name].astype(str)})
    else:
        odd = draw(st.sampled_from([None, True, "x", 1.5, -1, 2**62, math.nan, math.inf, b"x"]))
        values = [odd] if how == "odd" else [odd] * len(frame)
        frame = frame.assign(**{name: values + frame[name].tolist()[len(values) :]})
    try:
        return frame.to_parquet(index=False)
    except (pa.ArrowException, ValueError):  # nobody can write such a column
        return b"PAR1"
