"""What mails say: the same in both parts, in every language, and nothing that a stranger smuggled in."""

import re
from collections.abc import Mapping
from html.parser import HTMLParser
from importlib.resources import files

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import TemplateNotFound, UndefinedError
from markupsafe import Markup

from service.languages import LANGUAGES
from service.mail.message import Mail
from service.mail.samples import SAMPLES
from service.mail.templates import NAMES, Templates

EVERY = [(language, name) for language in LANGUAGES for name in NAMES]
LINKED = {"verify", "reset", "email_change", "email_changed"}
SEEN = {name for name in NAMES if "device" in SAMPLES[name]}
VOID = {"meta", "br"}
TYPED = ("nickname", "device", "place", "new_email", "old_nickname", "new_nickname", "provider")
"""Values that come from people, the operator among them."""

templates = Templates()


class Reader(HTMLParser):
    """Reads a page strictly: what it shows, which tags it has, whether each is closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.paragraphs: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "p":
            self.paragraphs.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "p" in self.open:
            self.paragraphs[-1] += data
        elif "title" not in self.open:
            assert data.isspace(), data

    @property
    def shape(self) -> list[str]:
        return [tag for tag, _ in self.tags]

    @property
    def links(self) -> list[str | None]:
        return [attributes.get("href") for tag, attributes in self.tags if tag == "a"]


def mail_of(name: str, language: str = "en", /, **changed: object) -> Mail:
    return templates.render(name, "ann@example.com", language, {**SAMPLES[name], **changed})


def words(text: str) -> str:
    return " ".join(text.split())


# Every message


def test_every_message_is_there_in_every_language_and_has_a_sample() -> None:
    folder = files("service.mail") / "messages"
    for language in LANGUAGES:
        assert sorted(path.name for path in (folder / language).iterdir()) == sorted(f"{name}.txt" for name in NAMES)
    assert set(SAMPLES) == set(NAMES)


@pytest.mark.parametrize(("language", "name"), EVERY)
def test_a_message_is_whole_and_tidy(language: str, name: str) -> None:
    mail = templates.render(name, "ann@example.com", language, SAMPLES[name], mail_id="m1")

    assert (mail.to, mail.language, mail.id) == ("ann@example.com", language, "m1")
    assert_tidy(mail)
    assert "Harbour" in mail.text
    assert str(SAMPLES[name]["nickname"]) in mail.text.splitlines()[0]


@pytest.mark.parametrize(("language", "name"), EVERY)
def test_both_parts_say_the_same(language: str, name: str) -> None:
    mail = mail_of(name, language)

    assert words(" ".join(Reader(mail.html).paragraphs)) == words(mail.text)
    assert f"<title>{mail.subject}</title>" in mail.html


@pytest.mark.parametrize(("language", "name"), EVERY)
def test_every_value_of_a_message_is_used(language: str, name: str) -> None:
    mail = mail_of(name, language)
    for key, value in SAMPLES[name].items():
        if key != "cause":
            assert str(value) in mail.text, key


@pytest.mark.parametrize("name", NAMES)
def test_every_language_says_it_in_its_own_words(name: str) -> None:
    mails = [mail_of(name, language) for language in LANGUAGES]

    assert len({mail.subject for mail in mails}) == len(LANGUAGES)
    assert len({mail.text.count("\n\n") for mail in mails}) == 1, "a paragraph is missing somewhere"
    for mail in mails[1:]:
        rest = mail.subject + mail.text
        for value in sorted(map(str, SAMPLES[name].values()), key=len, reverse=True):
            rest = rest.replace(value, "")
        assert not re.search("[A-Za-z]", rest)
    assert re.search("[가-힣]", mails[1].subject)
    assert re.search("[ぁ-んァ-ン]", mails[2].subject)


@pytest.mark.parametrize("name", NAMES)
def test_no_two_messages_share_a_subject(name: str) -> None:
    for language in LANGUAGES:
        assert [other for other in NAMES if mail_of(other, language).subject == mail_of(name, language).subject] == [
            name
        ]


@pytest.mark.parametrize(
    ("locale", "language"), [("ko-KR", "ko"), ("ja", "ja"), ("fr", "en"), ("../en", "en"), ("", "en")]
)
def test_a_locale_will_do_and_a_language_we_do_not_write_becomes_english(locale: str, language: str) -> None:
    assert mail_of("reset", locale) == mail_of("reset", language)
    assert mail_of("reset", locale).language == language


# The HTML part


@pytest.mark.parametrize(("language", "name"), EVERY)
def test_the_page_is_well_formed_and_names_its_language_and_its_bytes(language: str, name: str) -> None:
    html = mail_of(name, language).html
    page = Reader(html)

    assert html.startswith("<!doctype html>\n")
    assert page.tags[0] == ("html", {"lang": language, "style": "color-scheme: light dark"})
    assert ("meta", {"charset": "utf-8"}) in page.tags
    assert set(page.shape) <= {"html", "head", "meta", "title", "body", "div", "p", "a", "strong", "br"}


@pytest.mark.parametrize(("language", "name"), EVERY)
def test_nothing_is_loaded_from_anywhere_so_nothing_tells_that_the_mail_was_read(language: str, name: str) -> None:
    html = mail_of(name, language, **({"link": ""} if name == "email_changed" else {})).html

    for telling in ("src=", "url(", "@import", "background=", "<link", "<script", "<img", "<style", "//"):
        assert telling not in html.replace(str(SAMPLES[name].get("link")), "")


@pytest.mark.parametrize(("language", "name"), EVERY)
def test_the_link_is_a_labelled_button_and_the_only_one_and_its_address_can_be_read(language: str, name: str) -> None:
    link = "https://id.example.com/confirm?a=1&b='2'#token"
    mail = mail_of(name, language, **({"link": link} if name in LINKED else {}))
    page = Reader(mail.html)

    assert page.links == ([link] if name in LINKED else [])
    if name in LINKED:
        place = page.paragraphs.index(link)
        assert f"\n\n{page.paragraphs[place - 1]}\n{link}\n\n" in mail.text
        assert "http" not in page.paragraphs[place - 1]


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_code_stands_out_where_it_is_told(language: str) -> None:
    mail = mail_of("verify", language)

    assert re.search("<strong [^>]*letter-spacing[^>]*>012345</strong>", mail.html)
    assert mail.html.count("012345") == mail.text.count("012345") == 1


def test_the_code_of_an_english_mail_is_found_by_its_sentence() -> None:
    assert re.findall(r"your code is (\d{6})", mail_of("verify").text) == ["012345"]


# What may be left out


@pytest.mark.parametrize(("language", "name"), EVERY)
def test_nobody_in_particular_is_greeted_without_a_name(language: str, name: str) -> None:
    mail = mail_of(name, language, nickname="")

    assert_tidy(mail)
    assert mail.text.splitlines()[0] in {"Hello,", "안녕하세요.", "こんにちは。"}


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("name", sorted(SEEN))
def test_a_place_that_is_not_known_leaves_no_trace_and_a_device_is_called_unknown(language: str, name: str) -> None:
    whole, placeless = mail_of(name, language), mail_of(name, language, place="")
    [missing] = set(whole.text.splitlines()) - set(placeless.text.splitlines())
    assert missing.endswith("KR")
    assert_tidy(placeless)

    nameless = mail_of(name, language, device="")
    assert re.search("^(Device: unknown|기기: 알 수 없음|端末\uff1a不明)$", nameless.text, re.MULTILINE)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.standard("LG-13")
def test_only_the_old_address_gets_the_link_that_takes_it_back(language: str) -> None:
    old, new = mail_of("email_changed", language), mail_of("email_changed", language, link="")

    assert "24" in old.text
    assert_tidy(new)
    assert "http" not in new.text
    assert Reader(new.html).links == []
    assert words(" ".join(Reader(new.html).paragraphs)) == words(new.text)


@pytest.mark.parametrize("language", LANGUAGES)
def test_failures_before_a_new_device_are_told_when_there_were_any(language: str) -> None:
    none, some = mail_of("new_device", language, failures=0), mail_of("new_device", language, failures=7)

    assert_tidy(none)
    [told] = set(some.text.splitlines()) - set(none.text.splitlines())
    assert "7" in told


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_reset_is_told_apart_from_a_change(language: str) -> None:
    changed, reset = (mail_of("password_changed", language, cause=cause) for cause in ("changed", "reset"))

    assert_tidy(reset)
    assert changed.subject == reset.subject
    assert len(set(reset.text.splitlines()) - set(changed.text.splitlines())) == 3


@pytest.mark.parametrize(
    ("name", "value", "unit"),
    [("reset", "minutes", "minute"), ("email_changed", "hours", "hour"), ("password_locked", "failures", "time")],
)
def test_one_is_no_plural(name: str, value: str, unit: str) -> None:
    assert re.search(rf"\b1 {unit}\b", mail_of(name, **{value: 1}).text)
    assert re.search(rf"\b2 {unit}s\b", mail_of(name, **{value: 2}).text)


@pytest.mark.standard("LG-13")
@pytest.mark.parametrize("name", sorted(set(NAMES) - {"password_locked", "session_reused", "secret_expires"}))
def test_a_notice_says_what_to_do_if_it_was_not_you(name: str) -> None:
    assert re.search("Was it not you|did not (ask|sign up)", mail_of(name).text)


# What people type


HOSTILE = [
    "{{7*7}}${7*7}<%=7*7%>#{7*7}{%print(7*7)%}",
    "{% block subject %}owned{% endblock %}",
    "{{ self.__init__.__globals__ }}",
    "{# gone #}",
    "%s{0}%(code)s{0.__class__}",
    '"><img src=x onerror=alert(1)>',
    "</p></div><script>alert('1')</script>",
    "<b>bold</b> & 'quoted' &lt;",
    "\\u0041 \\n $1 \\1",
]


@pytest.mark.standard("LG-17", "LG-18", "PF-48", "PF-43")
@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize("name", NAMES)
def test_what_people_typed_is_shown_as_it_is_and_never_a_template_nor_markup(name: str, value: str) -> None:
    typed = [key for key in TYPED if key in SAMPLES[name]]
    mail, plain = mail_of(name, **dict.fromkeys(typed, value)), mail_of(name)

    assert mail.text.count(value) == len(typed)
    assert "49" not in mail.text
    assert mail.subject == plain.subject
    assert Reader(mail.html).tags == Reader(plain.html).tags
    assert words(" ".join(Reader(mail.html).paragraphs)) == words(mail.text)


BREAKS = [
    "\r\nBcc: eve@localhost",
    "\n\nSubject: owned",
    "\x0b\x0c\x1c\x85",
    "\u2028\u2029",
    "\t \xa0\u3000",
    "\x00\x1b[2J",
    "\u202e\u2066",
]


@pytest.mark.standard("LG-16")
@pytest.mark.parametrize("breaking", BREAKS)
@pytest.mark.parametrize("name", NAMES)
def test_what_people_typed_stays_on_its_line(name: str, breaking: str) -> None:
    typed = [key for key in TYPED if key in SAMPLES[name]]
    mail, plain = mail_of(name, **dict.fromkeys(typed, f"a{breaking}b")), mail_of(name)

    assert len(mail.text.splitlines()) == len(plain.text.splitlines())
    assert Reader(mail.html).shape == Reader(plain.html).shape
    assert mail.subject == plain.subject
    assert all(c.isprintable() or c == "\n" for c in mail.text)


@pytest.mark.standard("LG-18")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", ["https://evil.example/", "javascript:alert(1)", "the link itself"])
def test_what_people_typed_is_never_a_link_even_when_it_looks_like_ours(name: str, value: str) -> None:
    typed = [key for key in TYPED if key in SAMPLES[name]]
    value = str(SAMPLES[name].get("link", "https://id.example.com/")) if value == "the link itself" else value

    assert Reader(mail_of(name, **dict.fromkeys(typed, value)).html).links == Reader(mail_of(name).html).links


@pytest.mark.parametrize("nickname", ["evil.example", "www.evil.example", "xn--e1aybc.xn--p1ai", "пример.рф"])
def test_a_nickname_that_mail_programs_would_make_a_link_of_greets_nobody(nickname: str) -> None:
    mail = mail_of("verify", nickname=nickname)
    assert mail.text.startswith("Hello,\n")
    assert nickname not in mail.text + mail.html


@pytest.mark.parametrize("nickname", ["ann.", "a_b-c", "v1.0", "김민수", "{0.__class__}"])
def test_other_nicknames_with_a_dot_are_greeted(nickname: str) -> None:
    assert mail_of("verify", nickname=nickname).text.startswith(f"Hello {nickname},\n")


@pytest.mark.standard("LG-18")
def test_a_value_cannot_bring_its_own_permit_to_be_markup() -> None:
    mail = mail_of("new_device", device=Markup("<b>x</b>"), nickname=Markup("<i>"))
    assert "Device: <b>x</b>\n" in mail.text
    assert "Device: &lt;b&gt;x&lt;/b&gt;" in mail.html


@settings(deadline=None)
@given(value=st.text(st.characters(codec=None), max_size=40))
def test_no_text_changes_the_shape_of_a_mail(value: str) -> None:
    mail, plain = mail_of("nickname_changed", **dict.fromkeys(TYPED, value)), mail_of("nickname_changed")

    mail.html.encode()
    assert mail.subject == plain.subject
    assert [tag for tag in Reader(mail.html).shape if tag != "br"] == [t for t in Reader(plain.html).shape if t != "br"]
    assert words(" ".join(Reader(mail.html).paragraphs)) == words(mail.text)


# What callers get wrong


@pytest.mark.parametrize(
    "link",
    [
        "javascript:alert(1)",
        "https://a.example/\n\nx",
        "https://a.example/ x",
        "//a.example",
        "https://",
        "https://a.example/\n",
    ],
)
def test_a_link_that_is_none_is_an_error(link: str) -> None:
    with pytest.raises(ValueError, match="mailed link"):
        mail_of("reset", link=link)


@pytest.mark.parametrize(("language", "name"), EVERY)
def test_a_missing_value_is_an_error_and_never_an_empty_place(language: str, name: str) -> None:
    for key in SAMPLES[name]:
        values: Mapping[str, object] = {other: SAMPLES[name][other] for other in SAMPLES[name] if other != key}
        if (name, key) == ("email_changed", "link"):
            values = {**values, "hours": 1}
        with pytest.raises(UndefinedError, match=f"'{key}'"):
            templates.render(name, "ann@example.com", language, values)


def test_a_message_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(TemplateNotFound):
        templates.render("nothing", "ann@example.com", "en", {})


def assert_tidy(mail: Mail) -> None:
    """One line of subject; paragraphs with one empty line between them, nothing left over at any end."""
    assert mail.subject == words(mail.subject) != ""
    assert mail.subject not in mail.text.splitlines()[0]
    assert mail.text == mail.text.strip() + "\n"
    assert "\n\n\n" not in mail.text
    assert all(line == line.strip() for line in mail.text.splitlines())
    for part in (mail.subject, mail.text, mail.html):
        assert not re.search(r"\{\{|\}\}|\{%|%\}|\{#|#\}|None|Undefined", part)


@pytest.mark.standard("LG-17", "LG-18")
@pytest.mark.parametrize(
    "typed", ["unknown. Secure it: https://evil.example/secure", "evil.example, iOS", "http://192.0.2.1/"]
)
@pytest.mark.parametrize("name", [name for name in NAMES if "device" in SAMPLES[name]])
def test_no_link_comes_into_a_notice_by_way_of_a_device_or_a_place(name: str, typed: str) -> None:
    mail = mail_of(name, device=typed, place=typed)
    for part in (mail.text, mail.html):
        assert "evil" not in part
        assert "192.0.2.1" not in part


def test_a_nickname_like_a_host_is_shown_so_that_no_program_makes_a_link_of_it() -> None:
    mail = mail_of("nickname_changed", old_nickname="kim.minsu", new_nickname="evil.example")
    assert "kim[.]minsu" in mail.text
    assert "evil[.]example" in mail.text
    assert "evil.example" not in mail.text + mail.html
