// What the scripts of this folder share: the errand comes as JSON on stdin, and what became of each scenario goes as
// JSON to stdout, null where it went well.

import assert from "node:assert/strict";
import { text } from "node:stream/consumers";

export const errand = JSON.parse(await text(process.stdin));

export async function tell(scenarios) {
  const told = {};
  for (const [name, scenario] of Object.entries(scenarios)) {
    try {
      await scenario();
      told[name] = null;
    } catch (error) {
      told[name] = `${error.stack}\n${error.code ?? ""} ${JSON.stringify(error.cause ?? null)}`;
    }
  }
  process.stdout.write(JSON.stringify(told));
}

const ALGORITHMS = {
  EC: { name: "ECDSA", namedCurve: "P-256" },
  RSA: { name: "RSA-PSS", hash: "SHA-256" },
};

export async function privateKey(jwk) {
  const key = await crypto.subtle.importKey("jwk", jwk, ALGORITHMS[jwk.kty], false, ["sign"]);
  return { key, kid: jwk.kid };
}

export function hasMembers(answer, ...names) {
  assert.deepEqual(Object.keys(answer).sort(), names.sort());
}
