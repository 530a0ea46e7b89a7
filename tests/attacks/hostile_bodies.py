"""Bodies of just under 1 MiB, each made to cost a reader as much as it can."""

from collections.abc import Callable

SIZE = (1 << 20) - 1_024
"""Just below the limit, so that the body is read."""

_GRAPH = b'{"source":{"kind":"graph","graph":{"schema":"spanloom/1","name":"x","nodes":['
_ENDS = b'{"id":"start","type":"start"},{"id":"end","type":"end"}'
_INPUT = b'},"input":{"message":"hi"}}'
_CHAT = b'{"source":{"kind":"chat"},"input":{"message":"hi",'


def repeated(unit: Callable[[int], bytes], head: bytes, tail: bytes) -> bytes:
    """As many units between head and tail as fit, with commas between them."""
    parts: list[bytes] = []
    size = len(head) + len(tail)
    while size < SIZE:
        parts.append(unit(len(parts)))
        size += len(parts[-1]) + 1
    return head + b",".join(parts[:-1]) + tail


def _members(number: int) -> bytes:
    return b'"k%d":0' % number


def _filled(unit: bytes, head: bytes, tail: bytes) -> bytes:
    """The same without commas."""
    return head + unit * ((SIZE - len(head) - len(tail)) // len(unit)) + tail


def _nodes(config: Callable[[int], bytes], count: int = 190) -> bytes:
    """A graph of many model nodes, with these configs."""
    nodes = b",".join(b'{"id":"n%d","type":"model","config":{%s}}' % (index, config(index)) for index in range(count))
    return _GRAPH + _ENDS + b"," + nodes + b'],"edges":[{"source":"start","target":"n0"}]}' + _INPUT


def _edges(edge: Callable[[int], bytes], count: int = 990) -> bytes:
    return _GRAPH + _ENDS + b'],"edges":[' + b",".join(map(edge, range(count))) + b"]}" + _INPUT


def _condition(text: bytes) -> Callable[[int], bytes]:
    return lambda _: b'{"source":"start","target":"end","condition":"%s"}' % text


def _confusable(number: int) -> bytes:
    return '"\N{CYRILLIC SMALL LETTER ES}\N{CYRILLIC SMALL LETTER O}urce{}":0'.replace("{}", str(number)).encode()


BODIES: dict[str, bytes] = {
    "unknown fields": repeated(_members, b"{", b"}"),
    "fields that are nearly known": repeated(lambda n: b'"inpt%d":0' % n, b"{", b"}"),
    "long fields that are nearly known": repeated(lambda n: b'"%soverrides%d":0' % (b"overrides" * 6, n), b"{", b"}"),
    "unknown fields of a source": repeated(_members, b'{"source":{"kind":"chat",', b"}}"),
    "fields of another alphabet": repeated(_confusable, b"{", b"}"),
    "tags of the wrong type": repeated(_members, _CHAT[:-1] + b'},"tags":{', b"}}"),
    "a duplicate at the end": repeated(_members, b'{"a":0,', b',"a":0}'),
    "only duplicates": repeated(lambda _: b'"a":0', b"{", b"}"),
    "a duplicate behind many objects": repeated(lambda _: b'{"a":0}', b'{"x":[', b',{"a":0,"a":1}]}'),
    "a duplicate behind a long text": _filled(b'\\"', b'{"a":"', b'","a":1}'),
    "open arrays": b"[" * SIZE,
    "nested arrays": b"[" * (SIZE // 2) + b"]" * (SIZE // 2),
    "nested objects": b'{"a":' * (SIZE // 6) + b"1" + b"}" * (SIZE // 6),
    "empty arrays": repeated(lambda _: b"[]", _CHAT + b'"x":[', b"]}}"),
    "empty objects": repeated(lambda _: b"{}", _CHAT + b'"x":[', b"]}}"),
    "arrays in arrays": repeated(lambda _: b"[[[[]]]]", _CHAT + b'"x":[', b"]}}"),
    "empty arrays and a flaw": repeated(lambda _: b"[]", _CHAT + b'"x":[', b',"\\u0000"]}}'),
    "empty arrays for nothing": repeated(lambda _: b"[]", b"[", b"]"),
    "numbers": repeated(lambda _: b"0", _CHAT + b'"x":[', b"]}}"),
    "a number of a million digits": _filled(b"9", _CHAT + b'"x":', b"}}"),
    "a fraction of a million digits": _filled(b"9", _CHAT + b'"x":0.', b"}}"),
    "an exponent of a million digits": _filled(b"9", _CHAT + b'"x":1e', b"}}"),
    "numbers of 4,000 digits": repeated(lambda _: b"9" * 4_000, _CHAT + b'"x":[', b"]}}"),
    "escapes": _filled(b"\\u0041", _CHAT + b'"x":"', b'"}}'),
    "surrogate pairs": _filled(b"\\ud83d\\ude00", _CHAT + b'"x":"', b'"}}'),
    "no UTF-8": _filled(b"\xff", _CHAT + b'"x":"', b'"}}'),
    "many inputs": repeated(_members, _CHAT, b"}}"),
    "many parameters": repeated(
        lambda n: b'"k%d":{}' % n, b'{"source":{"kind":"template","template":"universal_chat","params":{', b"}}}"
    ),
    "many overrides": repeated(lambda n: b'"k%d":{}' % n, _CHAT[:-1] + b'},"overrides":{"nodes":{', b"}}}"),
    "nodes of the wrong type": repeated(lambda _: b"1", _GRAPH, b'],"edges":[]}' + _INPUT),
    "nodes without anything": repeated(lambda _: b"{}", _GRAPH, b'],"edges":[]}' + _INPUT),
    "edges without anything": repeated(lambda _: b"{}", _GRAPH + _ENDS + b'],"edges":[', b"]}" + _INPUT),
    "one node of unknown fields": repeated(
        lambda n: b'"confg%d":0' % n, _GRAPH + b'{"id":"a","type":"model",', b'}],"edges":[]}' + _INPUT
    ),
    "one config of unknown fields": repeated(
        lambda n: b'"confg%d":0' % n, _GRAPH + b'{"id":"a","type":"model","config":{', b'}}],"edges":[]}' + _INPUT
    ),
    "configs of unknown fields": _nodes(lambda _: b",".join(b'"sytem_message%d":0' % n for n in range(220))),
    "references in prompts": _nodes(
        lambda _: b'"prompt":"%s"' % b"".join(b"{{ outputs.x%d.y }}" % n for n in range(240))
    ),
    "braces in prompts": _nodes(lambda _: b'"prompt":"%s"' % (b"{{" * 2_500)),
    "secrets in prompts": _nodes(lambda _: b'"prompt":"%s"' % (b"Bearer eyJhbGciOi." * 280)),
    "unknown variables": repeated(
        _members, _GRAPH + _ENDS + b'],"edges":[{"source":"start","target":"end"}],"variables":{', b"}}" + _INPUT
    ),
    "metadata": repeated(
        _members, _GRAPH + _ENDS + b'],"edges":[{"source":"start","target":"end"}],"metadata":{', b"}}" + _INPUT
    ),
    "edges to nowhere": _edges(lambda n: b'{"source":"%s%d","target":"m%d"}' % (b"strat" * 12, n, n)),
    "long expressions": _edges(_condition(b"inpt.x.matches('(a+)+b') && " * 30 + b"true")),
    "all expressions that a graph may have": _edges(_condition(b"input.x.matches('(a+)+b') && " * 30 + b"true"), 34),
    "deep expressions": _edges(_condition(b"(" * 400 + b"1" + b")" * 400), 34),
    "parentheses in expressions": _edges(_condition(b"(" * 450 + b"1" + b")" * 450)),
    "negations in expressions": _edges(_condition(b"!" * 900 + b"true")),
}
