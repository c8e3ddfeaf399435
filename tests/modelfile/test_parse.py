"""The Modelfile grammar and what the commands amount to (spec/modelfile.md sections 1, 2, 10.1)."""

from __future__ import annotations

import pytest

from olla.errors import InvalidOption, ModelfileError
from olla.messages import Message
from olla.modelfile.parse import Command, CommandName, parse_modelfile

BAD_COMMAND = (
    'command must be one of "from", "license", "template", "system", "adapter", "draft", '
    '"renderer", "parser", "parameter", "message", or "requires"'
)
BAD_ROLE = 'message role must be one of "system", "user", or "assistant"'


@pytest.mark.parametrize(
    ("text", "commands"),
    [
        (
            'from m\nparameter stop "<a b>"\nParameter stop c d\n',
            ["model=m", "parameter=stop <a b>", "parameter=stop c d"],
        ),
        ("# x\n\nFROM m # not a comment", ["model=m # not a comment"]),
        ('FROM m\nSYSTEM """a\n "b"\n"""', ["model=m", 'system=a\n "b"\n']),
        ('FROM m\nSYSTEM "two\nlines"', ["model=m", "system=two\nlines"]),
        ('FROM m\nMESSAGE user """\nx\n"""', ["model=m", "message=user: \nx\n"]),
        ("FROM m\nPARAMETER num_ctx abc", ["model=m", "parameter=num_ctx abc"]),
        ("SYSTEM hi\r\nFROM m\r\n", ["system=hi", "model=m"]),
        ("FROM m\nSYSTEM \nTEMPLATE t", ["model=m", "system=", "template=t"]),
        ("FROM m\nSYSTEM ", ["model=m", "system="]),
        ("  \t from\t  a  b \t\n", ["model=a  b"]),
        ('FROM m\nSYSTEM """"""\n', ["model=m", "system="]),
        ('FROM m\nSYSTEM ""\n', ["model=m", "system="]),
        ('FROM m\nSYSTEM """a"""" \n', ["model=m", 'system=a"']),
        ('FROM m\nSYSTEM "a" b\nc"\n', ["model=m", 'system=a" b\nc']),
        ("FROM m\nSYSTEM 'a'", ["model=m", "system='a'"]),
        ("FROM m\nPARAMETER   top_k  4", ["model=m", "parameter=top_k 4"]),
        ("FROM m\nMESSAGE \t assistant ok", ["model=m", "message=assistant: ok"]),
        ("FROM m\nADAPTER ./a b", ["model=m", "adapter=./a b"]),
        ('FROM m\nADAPTER "./a b" 0.5 \nADAPTER """c""" -1',
         ["model=m", "adapter=./a b 0.5", "adapter=c -1"]),
        ("FROM m\n#a\n # b\nLICENSE c#d", ["model=m", "license=c#d"]),
        ("FROM m\nSYSTEM 👩\u200d👧\u00a0x\u3000", ["model=m", "system=👩\u200d👧\u00a0x\u3000"]),
        ("FROM m\nRENDERER a\nPARSER b\nDRAFT c\nREQUIRES 1",
         ["model=m", "renderer=a", "parser=b", "draft=c", "requires=1"]),
    ],
)  # fmt: skip
def test_commands(text: str, commands: list[str]) -> None:
    parsed = parse_modelfile(text)

    assert [f"{command.name}={command.args}" for command in parsed.commands] == commands


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "no FROM line"),
        ("SYSTEM hi", "no FROM line"),
        ('FROM m\nSYSTEM "abc', "unexpected EOF"),
        ('FROM m\nSYSTEM """abc"', "unexpected EOF"),
        ('FROM m\nSYSTEM """""\n', "unexpected EOF"),
        ("FROM", "unexpected EOF"),
        ("nonsense", "unexpected EOF"),
        ("FROM m\nPARAMETER num_ctx\n", "unexpected EOF: num_ctx"),
        ("FROM m\nPARAMETER num-ctx 1\n", "unexpected EOF: num"),
        ("FROM m\nPARAMETER num_ctx", "unexpected EOF"),
        ("FROM m\nMESSAGE user\n", "unexpected EOF: user"),
        ("FROM m\nMESSAGE", "unexpected EOF"),
        ("FROM\n", f"(line 2): {BAD_COMMAND}"),
        ("FROM\r\n", f"(line 2): {BAD_COMMAND}"),
        ("FROM m\nWHAT x", f"(line 2): {BAD_COMMAND}"),
        ("FROM m\r\nWHAT x", f"(line 3): {BAD_COMMAND}"),
        ("FROM m\n\n# c\nSYSTEM: x", f"(line 4): {BAD_COMMAND}"),
        ('FROM m\nSYSTEM "a\nb"\n"x y', f"(line 4): {BAD_COMMAND}"),
        ("FROM m\nMESSAGE User hi", f"(line 2): {BAD_ROLE}"),
        ("FROM m\nMESSAGE tool hi", f"(line 2): {BAD_ROLE}"),
        (b"FROM \xff\xff\xff", "the Modelfile is neither UTF-8 nor UTF-16 text"),
        (b"\xff\xfeF", "the Modelfile is neither UTF-8 nor UTF-16 text"),
    ],
)
def test_errors(text: str | bytes, error: str) -> None:
    with pytest.raises(ModelfileError) as caught:
        parse_modelfile(text)

    assert str(caught.value) == error


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
def test_encodings(encoding: str) -> None:
    text = "FROM m\nSYSTEM Grüße 你好 🦙\n"
    data = text.encode(encoding)
    if encoding == "utf-16-be":
        data = b"\xfe\xff" + data

    assert parse_modelfile(data) == parse_modelfile(text)


def test_a_byte_order_mark_in_text_is_dropped() -> None:
    assert parse_modelfile("\ufeffFROM m") == parse_modelfile("FROM m")


def test_commands_know_their_line() -> None:
    parsed = parse_modelfile('FROM m\n\nSYSTEM "a\nb"\n# c\nLICENSE x')

    assert [command.line for command in parsed.commands] == [1, 3, 6]


def test_many_open_quotes_and_blanks_are_read_in_linear_time() -> None:
    text = 'FROM m\nSYSTEM """' + '" \n' * 100_000 + " " * 100_000 + '"""'

    assert len(parse_modelfile(text).system) == 400_000


class TestMeaning:
    def test_what_is_said_once_is_settled_by_the_last(self) -> None:
        parsed = parse_modelfile(
            "FROM a\nFROM b\nADAPTER x\nADAPTER y\nTEMPLATE s\nTEMPLATE t\nSYSTEM u\nSYSTEM v\n"
            "RENDERER p\nPARSER q\nDRAFT d\nDRAFT e\nLICENSE l\nLICENSE m\n"
        )

        assert parsed.bases == ("a", "b")
        assert parsed.drafts == ("d", "e")
        assert parsed.adapters == ("x", "y")
        assert parsed.licenses == ("l", "m")
        assert (parsed.template, parsed.system) == ("t", "v")
        assert (parsed.renderer, parsed.parser) == ("p", "q")

    def test_what_is_not_said_is_empty(self) -> None:
        parsed = parse_modelfile("FROM a")

        assert (parsed.adapters, parsed.system, parsed.requires) == ((), "", "")
        assert (parsed.parameters, parsed.messages, parsed.warnings) == ({}, (), ())

    def test_parameters_are_typed_and_stops_add_up(self) -> None:
        parsed = parse_modelfile(
            "FROM a\nPARAMETER temperature 1\nPARAMETER temperature 0.5\nPARAMETER top_k 5\n"
            'PARAMETER use_mmap T\nPARAMETER stop x\nPARAMETER stop " y"'
        )

        assert parsed.parameters == {
            "temperature": 0.5,
            "top_k": 5,
            "use_mmap": True,
            "stop": ["x", " y"],
        }

    @pytest.mark.parametrize(
        ("line", "error"),
        [
            ("num_ctx abc", "invalid int value [abc]"),
            ("top_p x", "invalid float value [x]"),
            ("use_mmap yes", "invalid bool value [yes]"),
            ("foo 1", "unknown parameter 'foo'"),
        ],
    )
    def test_bad_parameters(self, line: str, error: str) -> None:
        with pytest.raises(InvalidOption) as caught:
            assert parse_modelfile(f"FROM m\nPARAMETER {line}").parameters

        assert str(caught.value) == error

    def test_deprecated_parameters_are_warned_about_and_skipped(self) -> None:
        parsed = parse_modelfile("FROM m\nPARAMETER mirostat 1\nPARAMETER low_vram x")

        assert parsed.parameters == {}
        assert parsed.warnings == (
            "warning: parameter mirostat is deprecated",
            "warning: parameter low_vram is deprecated",
        )

    def test_messages(self) -> None:
        parsed = parse_modelfile("FROM m\nMESSAGE user hi: you\nMESSAGE assistant \n")

        assert parsed.messages == (Message("user", "hi: you"), Message("assistant", ""))

    @pytest.mark.parametrize(
        ("text", "version"),
        [("v0.14", "0.14"), ("0.14.0", "0.14.0"), ("1", "1"), ("v1.2.3-rc.1+b5", "1.2.3-rc.1+b5")],
    )
    def test_requires(self, text: str, version: str) -> None:
        assert parse_modelfile(f"FROM m\nREQUIRES {text}").requires == version

    @pytest.mark.parametrize("text", ["abc", "01.2", "1.2.3.4", "1.2-rc", "vv1", "1.", "1.2.3-"])
    def test_requires_needs_a_version(self, text: str) -> None:
        with pytest.raises(ModelfileError, match=r"requires must be a valid semver \(e.g. 0.14.0"):
            assert parse_modelfile(f"FROM m\nREQUIRES {text}").requires


def test_lines_do_not_count_for_equality() -> None:
    assert Command(CommandName.SYSTEM, "a", 1) == Command(CommandName.SYSTEM, "a", 2)
