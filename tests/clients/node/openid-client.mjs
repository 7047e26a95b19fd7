// openid-client 6, as an application would use it.

import assert from "node:assert/strict";
import * as client from "openid-client";
import { errand, hasMembers, privateKey, tell } from "./telling.mjs";

const { issuer, api, service, backend, frontEnd, holders } = errand;
const options = { algorithm: "oauth2", execute: [client.allowInsecureRequests] };
const known = (who, how, metadata = {}) => client.discovery(new URL(issuer), who.id, metadata, how, options);
const withSecret = (who, metadata) => known(who, client.ClientSecretBasic(who.secret), metadata);

async function isRefused(promise, status, error) {
  await assert.rejects(promise, (refused) => {
    assert.ok(refused instanceof client.ResponseBodyError, refused.stack);
    assert.deepEqual([refused.status, refused.error], [status, error]);
    return true;
  });
}

async function isInactive(config, token) {
  assert.deepEqual(await client.tokenIntrospection(config, token), { active: false });
}

await tell({
  async discovery() {
    const metadata = (await known(frontEnd, client.None())).serverMetadata();
    assert.equal(metadata.issuer, issuer);
    for (const name of ["token", "revocation", "introspection"]) {
      assert.ok(metadata[`${name}_endpoint`].startsWith(`${issuer}/`));
    }
    assert.ok(metadata.supportsPKCE === undefined || metadata.supportsPKCE() === false);
  },

  async secrets() {
    for (const method of [client.ClientSecretBasic, client.ClientSecretPost]) {
      const config = await known(service, method(service.secret));
      const tokens = await client.clientCredentialsGrant(config, { scope: api.read, resource: api.identifier });
      hasMembers(tokens, "access_token", "token_type", "expires_in", "scope");
      assert.deepEqual([tokens.token_type, tokens.scope, tokens.expiresIn() > 500], ["bearer", api.read, true]);
      const stranger = await known(service, method("another secret"));
      await assert.rejects(client.clientCredentialsGrant(stranger), (refused) => {
        assert.ok(refused instanceof client.WWWAuthenticateChallengeError, refused.stack);
        assert.deepEqual([refused.status, refused.cause[0].scheme], [401, "basic"]);
        return true;
      });
    }
  },

  async keys() {
    for (const holder of holders) {
      const config = await known(holder, client.PrivateKeyJwt(await privateKey(holder.jwk)));
      const { access_token: token } = await client.clientCredentialsGrant(config);
      assert.equal((await client.tokenIntrospection(config, token)).sub, holder.id);
      await client.tokenRevocation(config, token);
      await isInactive(config, token);
    }
  },

  async refresh() {
    for (const who of [backend, frontEnd]) {
      const config = await known(who, who.secret ? client.ClientSecretPost(who.secret) : client.None());
      const first = await client.refreshTokenGrant(config, who.refreshed);
      hasMembers(first, "access_token", "token_type", "expires_in", "scope", "refresh_token");
      const second = await client.refreshTokenGrant(config, first.refresh_token, { scope: "account" });
      assert.notEqual(second.refresh_token, first.refresh_token);
      const me = await client.fetchProtectedResource(config, second.access_token, new URL(`${issuer}/me`), "GET");
      assert.equal(me.status, 200);
      await isRefused(client.refreshTokenGrant(config, "vrt_nobody"), 400, "invalid_grant");
    }
  },

  async refusals() {
    const config = await withSecret(service);
    await isRefused(client.clientCredentialsGrant(config, { scope: "unheard:of" }), 400, "invalid_scope");
    await isRefused(client.clientCredentialsGrant(config, { resource: "https://unheard.of" }), 400, "invalid_target");
    await isRefused(client.refreshTokenGrant(config, "vrt_nobody"), 400, "unauthorized_client");
    await isRefused(client.genericGrantRequest(config, "password", {}), 400, "unsupported_grant_type");
  },

  async revocation() {
    const config = await withSecret(backend);
    for (const [token, hint] of [[backend.revoked, "refresh_token"], ["unheard of", "access_token"]]) {
      for (const _ of [1, 2]) await client.tokenRevocation(config, token, { token_type_hint: hint });
    }
    await isInactive(config, backend.revoked);
    await isInactive(config, backend.orphaned);
    await isRefused(client.tokenRevocation(await withSecret(service), backend.foreign), 400, "invalid_grant");
  },

  async introspection() {
    const config = await withSecret(service);
    const { access_token: token } = await client.clientCredentialsGrant(config, { scope: api.read });
    const told = await client.tokenIntrospection(config, token, { token_type_hint: "access_token" });
    hasMembers(told, "active", "iss", "sub", "aud", "client_id", "scope", "token_type", "exp", "iat", "jti");
    assert.deepEqual([told.active, told.aud, told.scope], [true, api.identifier, api.read]);
    await isInactive(config, "unheard of");

    const signed = await withSecret(service, { introspection_signed_response_alg: "ES256" });
    client.enableNonRepudiationChecks(signed);
    assert.deepEqual(await client.tokenIntrospection(signed, token), told);
    await isInactive(signed, "unheard of");
  },
});
