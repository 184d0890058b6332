"""Ways in which a file is damaged, or is not what its name says."""

import gzip

#: What readers of text, JSON, CSV and YAML have trouble with.
TOKENS = [
    b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\r", b"\r\n", b"\n\n", b"\t", b" ", b'"', b"'", b"\\",
    b"\\ud800", b"\\u0000",
    b"{", b"}", b"[", b"]", b":", b",", b"- ", b"? ", b"#", b"&a ", b"*a", b"*b", b"!!python/object:os.system ",
    b"!!binary ", b"!!set ", b"!!timestamp ", b"<<: ", b"|\n", b">\n", b"---\n", b"...\n", b"%YAML 9.9\n",
    b"@", b"`", b"~",
    b"NaN", b"-Infinity", b"1e999", b"9" * 4301, b"18446744073709551616", b"0x" + b"f" * 30, b"1_000", b"2020-13-45",
    b"12:30:45", b"null", b"true", b"[]", b"{}", b"${nowhere}", b"${", b"}", b"${oc.env:NOT_SET_ANYWHERE}", b"${seed",
    b"${.name}", b"???", b"\xc3\x28", "\u2028".encode(), "é".encode("latin-1"), b"\xf4\x90\x80\x80", b"[" * 3000,
    b'{"a":' * 3000, b"x" * 140_000, b"_target_: ", b"defaults:\n", b"optional ", b"override ", b"@package ",
    b"-", b"=",
]  # fmt: skip


def truncate(random, content, other):
    """Keep the beginning."""
    return content[: random.randrange(len(content) + 1)]


def behead(random, content, other):
    """Keep the end."""
    return content[random.randrange(len(content) + 1) :]


def flip_bits(random, content, other):
    """Turn over a few bits."""
    flipped = bytearray(content)
    for _ in range(random.choice([1, 1, 2, 8, 64])):
        if flipped:
            flipped[random.randrange(len(flipped))] ^= 1 << random.randrange(8)
    return bytes(flipped)


def overwrite(random, content, other):
    """Write other bytes over some."""
    begin, length = random.randrange(len(content) + 1), random.choice([1, 4, 16, 512])
    fill = random.choice([b"\x00", b"\xff", b" ", random.randbytes(1)]) * length
    return content[:begin] + fill + content[begin + length :]


def delete(random, content, other):
    """Leave some bytes out."""
    begin = random.randrange(len(content) + 1)
    return content[:begin] + content[begin + random.choice([1, 1, 2, 10, 100]) :]


def duplicate(random, content, other):
    """Write some bytes twice."""
    begin, end = sorted(random.choices(range(len(content) + 1), k=2))
    return content[:end] + content[begin:end] + content[end:]


def insert(random, content, other):
    """Write something else in between."""
    place = random.randrange(len(content) + 1)
    return content[:place] + random.choice([*TOKENS, random.randbytes(4)]) + content[place:]


def replace_word(random, content, other):
    """Put something else in the place of a word."""
    words = content.split(b" ")
    words[random.randrange(len(words))] = random.choice(TOKENS)
    return b" ".join(words)


def change_indentation(random, content, other):
    """Move a line to the right or left."""
    lines = content.split(b"\n")
    at = random.randrange(len(lines))
    lines[at] = random.choice([b" " + lines[at], b"\t" + lines[at], b"  " + lines[at], lines[at].lstrip()])
    return b"\n".join(lines)


def shuffle_lines(random, content, other):
    """Change the order of lines."""
    lines = content.split(b"\n")
    random.shuffle(lines)
    return b"\n".join(lines)


def splice(random, content, other):
    """Go on with another file."""
    return content[: random.randrange(len(content) + 1)] + other[random.randrange(len(other) + 1) :]


def encode(random, content, other):
    """Save in another encoding, or compressed."""
    kind = random.choice(["utf-16", "utf-16-le", "utf-32", "utf-7", "cp037", "gzip", "utf-8-sig"])
    return gzip.compress(content) if kind == "gzip" else content.decode("latin-1").encode(kind, "replace")


def nest(random, content, other):
    """Put everything into a list or mapping."""
    opening, closing = random.choice([(b"[", b"]"), (b'{"a": ', b"}"), (b"- ", b""), (b"a:\n ", b""), (b'"', b'"')])
    return opening + content + closing


def change_line_ends(random, content, other):
    """End lines otherwise."""
    return content.replace(b"\n", random.choice([b"\r", b"\r\n", b"\x00", b" ", b"\n\r", "\u2028".encode()]))


def be_another(random, content, other):
    """Be a file of another kind."""
    return random.choice([other, b"", b"\n" * 5, b"\x00" * 600, random.randbytes(200)])


MUTATORS = [
    truncate, behead, flip_bits, flip_bits, overwrite, delete, duplicate, insert, insert, replace_word, replace_word,
    change_indentation, shuffle_lines, splice, encode, nest, change_line_ends, be_another,
]  # fmt: skip


def mutated(random, content, other):
    """Return some bytes damaged once, or a few times."""
    for _ in range(random.choice([1, 1, 1, 2, 4])):
        content = random.choice(MUTATORS)(random, content, other)[:2_000_000]
    return content
