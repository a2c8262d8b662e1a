from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.importing.blocks import MAX_BYTES, MAX_DEPTH, MAX_DIRECTIVES, MAX_WORD, BlocksError, Directive, parse

words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


def written(directive: Directive, depth: int = 0) -> str:
    """As a file may have it: every word in quotes."""

    def quoted(word: str) -> str:
        return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'

    head = " " * depth + " ".join(map(quoted, (directive.name, *directive.arguments)))
    if directive.block is None:
        return head + ";"
    return "\n".join([head + " {", *(written(each, depth + 1) for each in directive.block), " " * depth + "}"])


def bare(directive: Directive) -> object:
    """Without its line."""
    block = None if directive.block is None else [bare(each) for each in directive.block]
    return directive.name, directive.arguments, block


directives = st.recursive(
    st.builds(Directive, words, st.lists(words, max_size=3).map(tuple), st.just(0)),
    lambda inner: st.builds(
        Directive, words, st.lists(words, max_size=2).map(tuple), st.just(0), st.lists(inner, max_size=4).map(tuple)
    ),
    max_leaves=12,
)


@given(st.lists(directives, max_size=4))
def test_what_is_written_is_read(wanted: list[Directive]) -> None:
    text = "\n".join(map(written, wanted))
    assert [bare(each) for each in parse(text)] == [bare(each) for each in wanted]


@given(st.text(st.sampled_from("a1 \n\t{};#\"'\\${}"), max_size=60) | st.text(max_size=60))
def test_anything_is_read_or_refused_with_a_line(text: str) -> None:
    try:
        found = parse(text)
    except BlocksError as error:
        assert 1 <= error.line <= text.count("\n") + 1 and str(error)
    else:
        assert all(1 <= each.line <= text.count("\n") + 1 for each in found)


def test_lines_comments_and_quotes() -> None:
    text = """# first
listen 1935; # "not read" {
application "my app" { push a#b
    'c "d"; \\'e\\'' "f\\tg";   exec ffmpeg ${name}.flv a\\;b x"y";
}
"""
    listen, application = parse(text)
    assert (listen.name, listen.value, listen.line, listen.block) == ("listen", "1935", 2, None)
    push, execute = application.block or ()
    assert (application.value, application.line, push.line, execute.line) == ("my app", 3, 3, 4)
    assert push.arguments == ("a#b", "c \"d\"; 'e'", "f\tg")
    assert execute.arguments == ("ffmpeg", "${name}.flv", "a\\;b", 'x"y"')


def test_a_quoted_mark_is_a_word() -> None:
    assert parse("""a "{" ';' "}";""")[0].arguments == ("{", ";", "}")


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("a 1;\nb 2", 2, '"b" does not end with ";"'),
        ("a {\n b 1\n}", 2, '"b" does not end with ";"'),
        ("a;\n}\n", 2, '"}" without a block'),
        ("a {\n b {\n }\n", 1, 'the block of "a" has no end'),
        ("\n;", 2, '";" without a directive'),
        ("\n{ a; }", 2, '"{" without a directive'),
        ('a;\nb "c;', 2, "a quote has no end"),
        ('a "b"c;', 1, "a quote has no end, or goes on"),
        ("a \\", 1, "a quote has no end"),
        ("a {" * (MAX_DEPTH + 1), 1, f"more than {MAX_DEPTH} deep"),
        ("a" * (MAX_WORD + 1) + ";", 1, "a word is longer"),
        ("a;" * (MAX_DIRECTIVES + 1), 1, "there are more than"),
        ("#" * (MAX_BYTES + 1), 1, "the file is longer"),
        ("\x1b[31m\n\u202e", 1, '"\\x1b[31m" does not'),
    ],
    ids=range(14),
)
def test_what_is_no_such_file(text: str, line: int, reason: str) -> None:
    with pytest.raises(BlocksError) as caught:
        parse(text)
    assert reason in str(caught.value) and caught.value.line == line
