"""The pages of the fake provider: what they show, and when somebody is sent back instead."""

from urllib.parse import urlencode

from tests.fake_provider.visiting import BACK, OTHER_CLIENT, URL, Visitor, query, told_by


async def test_what_cannot_be_answered_is_a_page_and_no_redirect(visitor: Visitor) -> None:
    questions: list[dict[str, str | None]] = [
        {"client_id": "nobody"},
        {"redirect_uri": "/back"},
        {"redirect_uri": BACK + "#fragment"},
        {"redirect_uri": "app:/back", "response_mode": "form_post"},
    ]
    answers = [await visitor.choose(asked=asked) for asked in questions]
    choices = ({"person": "zoe"}, {"fault": "none_of_them"}, {"email_verified": "maybe"}, {"auth_age": "-1"})
    answers += [await visitor.choose(**form) for form in choices]
    answers.append(await visitor.choose("github", subject="x"))
    twice = f"/openid/authorize?{urlencode(query('openid'))}&state=2"
    answers.append(await visitor.http.post(twice, data={"person": "ann"}))
    assert {(answer.status_code, "location" in answer.headers) for answer in answers} == {(400, False)}


async def test_what_a_client_did_wrong_is_told_to_its_redirect_uri(visitor: Visitor) -> None:
    for asked, error in (
        ({"response_type": "token"}, "unsupported_response_type"),
        ({"code_challenge_method": "plain"}, "invalid_request"),
        ({"code_challenge_method": None}, "invalid_request"),
        ({"code_challenge": "short"}, "invalid_request"),
        ({"response_mode": "fragment"}, "invalid_request"),
    ):
        answer = await visitor.http.get("/openid/authorize", params=query("openid", **asked))
        assert told_by(answer.headers["location"])["error"] == error, asked


async def test_an_app_may_have_a_scheme_of_its_own(visitor: Visitor) -> None:
    answer = await visitor.choose(asked={"redirect_uri": "com.example.app:/back"})
    assert answer.headers["location"].startswith("com.example.app:/back?code=")


async def test_pages_show_what_clients_sent_as_text(visitor: Visitor) -> None:
    markup = "</title><script>alert(1)</script>\"'"
    asked = query("openid", client_id=OTHER_CLIENT[0], scope=f"openid {markup}", state=markup, nonce=markup)
    page = await visitor.http.get("/openid/authorize", params=asked)
    back = BACK + "&a='\">"
    posted = await visitor.choose(asked={"response_mode": "form_post", "state": markup, "redirect_uri": back})
    refused = await visitor.choose(fault=markup)
    for answer in (page, posted, refused):
        assert "<script>alert" not in answer.text
        assert "<b>other" not in answer.text
        assert "'\">" not in answer.text
        assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "&lt;b&gt;other&lt;/b&gt;" in page.text
    assert page.text.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 4  # a scope, and three parameters
    assert "script-src" not in page.headers["content-security-policy"]


async def test_a_form_can_carry_the_answer_without_a_script_too(visitor: Visitor) -> None:
    page = await visitor.choose(asked={"response_mode": "form_post", "redirect_uri": "https://app.test/back"})
    assert page.status_code == 200
    assert '<form method="post" action="https://app.test/back">' in page.text
    assert '<input type="hidden" name="state" value="state &amp; &lt;more&gt;">' in page.text
    assert f'<input type="hidden" name="iss" value="{URL}/openid">' in page.text
    assert 'name="code"' in page.text
    assert '<button type="submit"' in page.text
    nonce = page.headers["content-security-policy"].partition("script-src 'nonce-")[2].partition("'")[0]
    assert f'<script nonce="{nonce}">' in page.text
