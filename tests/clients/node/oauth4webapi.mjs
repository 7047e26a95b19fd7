// oauth4webapi 3: each request by itself, and the strict reading of each answer.

import assert from "node:assert/strict";
import * as oauth from "oauth4webapi";
import { errand, hasMembers, privateKey, tell } from "./telling.mjs";

const { issuer, api, service, backend, frontEnd, holders } = errand;
const plain = { [oauth.allowInsecureRequests]: true };
const here = new URL(issuer);
const found = await oauth.discoveryRequest(here, { algorithm: "oauth2", ...plain });
const as = await oauth.processDiscoveryResponse(here, found.clone());

const secret = (who) => oauth.ClientSecretBasic(who.secret);
const named = (who) => ({ client_id: who.id });

async function own(who, how, parameters = {}) {
  const answer = await oauth.clientCredentialsGrantRequest(as, named(who), how, parameters, plain);
  return oauth.processClientCredentialsResponse(as, named(who), answer);
}

async function renewed(who, how, token, parameters = {}) {
  const options = { ...plain, additionalParameters: parameters };
  const answer = await oauth.refreshTokenGrantRequest(as, named(who), how, token, options);
  return oauth.processRefreshTokenResponse(as, named(who), answer);
}

async function revoke(who, how, token) {
  return oauth.processRevocationResponse(await oauth.revocationRequest(as, named(who), how, token, plain));
}

async function told(who, how, token, signed = false) {
  const options = { ...plain, requestJwtResponse: signed };
  const answer = await oauth.introspectionRequest(as, named(who), how, token, options);
  const type = signed ? "application/token-introspection+jwt" : "application/json";
  assert.equal(answer.headers.get("content-type"), type);
  const read = await oauth.processIntrospectionResponse(as, named(who), answer);
  if (signed) await oauth.validateApplicationLevelSignature(as, answer, plain);
  return read;
}

async function isRefused(promise, status, error) {
  await assert.rejects(promise, (refused) => {
    assert.ok(refused instanceof oauth.ResponseBodyError, refused.stack);
    assert.deepEqual([refused.status, refused.error], [status, error]);
    return true;
  });
}

async function isChallenged(promise, scheme) {
  await assert.rejects(promise, (refused) => {
    assert.ok(refused instanceof oauth.WWWAuthenticateChallengeError, refused.stack);
    assert.deepEqual([refused.status, refused.cause.map((each) => each.scheme)], [401, [scheme]]);
    assert.ok(refused.cause[0].parameters.realm);
    return true;
  });
}

function validated(token, audience) {
  const request = new Request(`${issuer}/me`, { headers: { authorization: `Bearer ${token}` } });
  return oauth.validateJwtAccessToken(as, request, audience, plain);
}

await tell({
  async discovery() {
    assert.equal(as.issuer, issuer);
    assert.equal(found.headers.get("content-type"), "application/json");
    const elsewhere = oauth.processDiscoveryResponse(new URL("https://elsewhere.test"), found.clone());
    await assert.rejects(elsewhere, { code: oauth.JSON_ATTRIBUTE_COMPARISON });
  },

  async secrets() {
    for (const method of [oauth.ClientSecretBasic, oauth.ClientSecretPost]) {
      const tokens = await own(service, method(service.secret), { scope: api.read, resource: api.identifier });
      hasMembers(tokens, "access_token", "token_type", "expires_in", "scope");
      assert.deepEqual([tokens.token_type, tokens.expires_in, tokens.scope], ["bearer", 600, api.read]);
      await isChallenged(own(service, method("another secret")), "basic");
    }
  },

  async keys() {
    for (const holder of holders) {
      const how = oauth.PrivateKeyJwt(await privateKey(holder.jwk));
      const { access_token: token } = await own(holder, how);
      assert.equal((await told(holder, how, token)).client_id, holder.id);
      await revoke(holder, how, token);
      assert.deepEqual(await told(holder, how, token), { active: false });
    }
    const late = { [oauth.modifyAssertion]: (_, payload) => (payload.aud = as.token_endpoint) };
    const [holder] = holders;
    await isChallenged(own(holder, oauth.PrivateKeyJwt(await privateKey(holder.jwk), late)), "basic");
  },

  async refresh() {
    for (const who of [backend, frontEnd]) {
      const how = who.secret ? oauth.ClientSecretPost(who.secret) : oauth.None();
      const first = await renewed(who, how, who.refreshed);
      hasMembers(first, "access_token", "token_type", "expires_in", "scope", "refresh_token");
      const second = await renewed(who, how, first.refresh_token, { scope: "account" });
      const me = await oauth.protectedResourceRequest(
        second.access_token, "GET", new URL(`${issuer}/me`), undefined, undefined, plain,
      );
      assert.equal((await me.json()).nickname, who.nickname);
      await isRefused(renewed(who, how, "vrt_nobody"), 400, "invalid_grant");
    }
  },

  async refusals() {
    await isRefused(own(service, secret(service), { scope: "unheard:of" }), 400, "invalid_scope");
    await isRefused(own(service, secret(service), { resource: "https://unheard.of" }), 400, "invalid_target");
    await isRefused(renewed(service, secret(service), "vrt_nobody"), 400, "unauthorized_client");
    const answer = await oauth.genericTokenEndpointRequest(as, named(service), secret(service), "password", {}, plain);
    const read = oauth.processGenericTokenEndpointResponse(as, named(service), answer);
    await isRefused(read, 400, "unsupported_grant_type");
    const me = oauth.protectedResourceRequest("nonsense", "GET", new URL(`${issuer}/me`), undefined, undefined, plain);
    await isChallenged(me, "bearer");
  },

  async revocation() {
    const how = secret(backend);
    for (const token of [backend.revoked, backend.revoked, "unheard of"]) await revoke(backend, how, token);
    for (const token of [backend.revoked, backend.orphaned]) {
      assert.deepEqual(await told(backend, how, token), { active: false });
    }
    await isRefused(revoke(service, secret(service), backend.foreign), 400, "invalid_grant");
  },

  async introspection() {
    const { access_token: token } = await own(service, secret(service), { scope: api.read });
    const read = await told(service, secret(service), token);
    hasMembers(read, "active", "iss", "sub", "aud", "client_id", "scope", "token_type", "exp", "iat", "jti");
    assert.deepEqual([read.active, read.iss, read.aud], [true, issuer, api.identifier]);
    assert.deepEqual(await told(service, secret(service), token, true), read);
    for (const signed of [false, true]) {
      assert.deepEqual(await told(service, secret(service), "unheard of", signed), { active: false });
    }
    await isChallenged(told(service, oauth.ClientSecretBasic("another secret"), token), "basic");
  },

  async validation() {
    const { access_token: token } = await own(service, secret(service), { scope: api.read });
    assert.equal((await validated(token, api.identifier)).sub, service.id);
    const person = await validated(backend.alive, issuer);
    assert.deepEqual([person.client_id, person.scope, person.amr], [backend.id, "account", ["pwd"]]);
    await assert.rejects(validated(token, issuer), { code: oauth.JWT_CLAIM_COMPARISON });
    const signed = await oauth.introspectionRequest(
      as, named(service), secret(service), token, { ...plain, requestJwtResponse: true },
    );
    await assert.rejects(validated(await signed.text(), service.id), /"typ"/);
  },
});
