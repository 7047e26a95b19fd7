// OpenID providers that nobody here wrote, on loopback ports of their own. A first line on stdin says what each is
// called and how it differs, the line on stdout where they are, and a second line on stdin what their one client is
// registered with: they answer as soon as they know that, and end with stdin.

import { once } from "node:events";
import { createServer } from "node:http";
import { createInterface } from "node:readline";
import { json } from "node:stream/consumers";
import { Provider } from "oidc-provider";

const lines = createInterface({ input: process.stdin });
lines.once("close", () => process.exit());
const heard = async () => JSON.parse((await once(lines, "line"))[0]);

// Whoever signs in is who they type; what is told of them is what was posted, or a proved address.
function accounts(people) {
  return (_, login) => {
    const claims = people.get(login) ?? { email: `${login}@example.net`, email_verified: true };
    return { accountId: login, claims: () => ({ sub: login, name: `Mx ${login}`, preferred_username: login, ...claims }) };
  };
}

function provider(issuer, { name, client, keys, secret, conform }, registered, people) {
  return new Provider(issuer, {
    clients: [{ ...client, ...registered }],
    clientAuthMethods: [client.token_endpoint_auth_method],
    enabledJWA: { idTokenSigningAlgValues: [client.id_token_signed_response_alg] },
    conformIdTokenClaims: conform,
    claims: { openid: ["sub"], email: ["email", "email_verified"], profile: ["name", "preferred_username"] },
    findAccount: accounts(people),
    pkce: { required: () => true },
    jwks: { keys },
    cookies: { keys: [secret], names: { session: `${name}-session` } },
  });
}

async function begun(asked) {
  const [seen, people, server] = [[], new Map(), createServer()];
  const answering = new Promise((resolve) => (server.register = resolve));
  server.on("request", async (request, response) => {
    const [path] = request.url.split("?");
    if (path === "/seen") return response.end(JSON.stringify(seen));
    if (path.startsWith("/people/")) {
      people.set(path.slice(8), await json(request));
      return response.end();
    }
    seen.push(`${request.method} ${path}`);
    return (await answering)(request, response);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const register = (registered) => server.register(provider(issuer, asked, registered, people).callback());
  return { name: asked.name, issuer, register };
}

const providers = await Promise.all((await heard()).map(begun));
const issuers = providers.map(({ name, issuer }) => [name, issuer]);
process.stdout.write(`${JSON.stringify(Object.fromEntries(issuers))}\n`);
const registered = await heard();
for (const { name, register } of providers) register(registered[name]);
