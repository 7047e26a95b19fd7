"use strict";

// Reads the secret of a mailed link out of the fragment and uses it when a person presses the button, never before:
// some mail scanners run scripts, and a link that they had used up would be of no use to its person.

const PREFIXES = { verify: "vlk_", reset: "vpr_", email: "vec_", undo: "veu_" };
const sections = [...document.querySelectorAll("section")];
const board = document.getElementById("status");
const messages = Object.fromEntries(
  [...document.querySelectorAll("[data-message]")].map((item) => [item.dataset.message, item.textContent]),
);
let token = "";

/** What the link asks for; the fragment leaves the address bar and with it the history, before anything else. */
function begin() {
  const fragment = location.hash;
  if (fragment) history.replaceState(null, "", location.href.split("#")[0]);
  const [, purpose, secret] = /^#([a-z]+)(?:=|%3D)([\w-]{1,256})$/i.exec(fragment) ?? [];
  const known = Object.hasOwn(PREFIXES, purpose ?? "") && secret.startsWith(PREFIXES[purpose]);
  token = known ? secret : "";
  for (const form of document.querySelectorAll("form")) form.reset();
  offerNickname(false);
  tell("");
  show(known ? purpose : "nothing");
}

function show(id) {
  for (const section of sections) section.hidden = section.id !== id;
  document.querySelector(`#${id} h1`).focus();
}

/** Always as text: what the service answers may repeat what somebody typed. */
function tell(words, kind = "") {
  board.textContent = words;
  board.dataset.kind = kind;
}

function finish(words) {
  token = "";
  for (const section of sections) section.hidden = true;
  tell(words, "good");
  board.focus();
}

function fail(form, { status, body, wait }, overdue = messages.link_over) {
  const known = {
    invalid_or_expired_code: overdue,
    invalid_credentials: messages.wrong_credentials,
    nickname_taken: messages.nickname_taken,
    too_many_requests: messages.too_many.replace("{seconds}", wait ?? "60"),
    temporarily_unavailable: messages.unavailable,
  };
  const wrong = Array.isArray(body.errors) ? body.errors : [];
  for (const { field } of wrong) form.elements[field]?.setAttribute("aria-invalid", "true");
  tell(wrong.map(({ detail }) => detail).join("\n") || known[body.code] || `${messages.other} (${status})`, "bad");
  (form.querySelector("[aria-invalid=true]") ?? form.querySelector("input:enabled")).focus();
}

/**
 * Without cookies: what is done here must not touch a session that this browser may have.
 * Paths are relative to this page, so that the service may live below any path.
 */
async function post(path, body, accessToken) {
  const headers = { "Content-Type": "application/json" };
  if (accessToken) headers.Authorization = `Bearer ${accessToken}`;
  const answer = await fetch(path, {
    method: "POST", headers, body: JSON.stringify(body), credentials: "omit", cache: "no-store", redirect: "error",
  });
  const told = await answer.json().catch(() => ({}));
  return { status: answer.status, body: told ?? {}, wait: answer.headers.get("Retry-After") };
}

/** Ends a session that nobody is going to use. It would end by itself; a failure is no reason for a message. */
async function leave(refreshToken) {
  await post("logout", { refresh_token: refreshToken }).catch(() => {});
}

async function verify(form) {
  const { password, nickname } = form.elements;
  const another = nickname.disabled ? {} : { nickname: nickname.value };
  const answer = await post("verify", { token, password: password.value, ...another });
  if (answer.status === 200) {
    await leave(answer.body.refresh_token);
    finish(messages.verified);
    return;
  }
  if (answer.body.code === "nickname_taken") {
    offerNickname(true);
    nickname.setAttribute("aria-invalid", "true");
  }
  fail(form, answer, messages.verify_failed);
}

function offerNickname(offered) {
  document.querySelector(".nickname").hidden = !offered;
  document.getElementById("verify-nickname").disabled = !offered;
}

async function choosePassword(form, done) {
  const answer = await post("password/reset", { token, password: form.elements.password.value });
  if (answer.status === 204) finish(done);
  else fail(form, answer);
}

async function confirmEmail(form) {
  const who = form.elements.who.value.trim();
  const name = who.includes("@") ? { email: who } : { nickname: who };
  const login = await post("login", { ...name, password: form.elements.password.value });
  if (login.status !== 200) {
    fail(form, login);
    return;
  }
  let answer;
  try {
    answer = await post("../me/email/confirm", { token }, login.body.access_token);
  } finally {
    await leave(login.body.refresh_token);
  }
  if (answer.status === 204) finish(messages.email_changed);
  else fail(form, answer);
}

const deeds = {
  verify,
  reset: (form) => choosePassword(form, messages.password_changed),
  undo: (form) => choosePassword(form, messages.undone),
  email: confirmEmail,
};

for (const form of document.querySelectorAll("form")) {
  const [submit] = form.querySelectorAll("[type=submit]");
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (submit.disabled) return;
    conceal(form);
    submit.disabled = true;
    tell(messages.busy);
    try {
      await deeds[form.parentElement.id](form);
    } catch {
      tell(messages.network, "bad");
    } finally {
      submit.disabled = false;
    }
  });
}

/** Back to dots, so that password managers know what it is, and no mark of the last attempt. */
function conceal(form) {
  for (const input of form.querySelectorAll("[aria-invalid]")) input.removeAttribute("aria-invalid");
  for (const button of form.querySelectorAll("[aria-pressed=true]")) button.click();
}

for (const button of document.querySelectorAll(".show")) {
  button.addEventListener("click", () => {
    const input = document.getElementById(button.getAttribute("aria-controls"));
    const shown = input.type === "text";
    input.type = shown ? "password" : "text";
    button.setAttribute("aria-pressed", String(!shown));
  });
}

// Another link that is opened in the same tab changes the fragment and loads nothing.
addEventListener("hashchange", begin);
begin();
