// Runs Azure's key client against a key keeper, and prints what it gave: one JSON object.
// Arguments: the file of a JSON object {modules, url, bearer, stranger, scope, attestation}.
import dns from "node:dns";
import tls from "node:tls";
import { createHash, createVerify, createPublicKey } from "node:crypto";
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { join } from "node:path";

const input = JSON.parse(readFileSync(process.argv[2], "utf8"));
// The vault's name is in no name server, and the test's certificate is for another name.
const identity = tls.checkServerIdentity;
tls.checkServerIdentity = (_, cert) => identity("example.com", cert);
dns.lookup = (name, options, done) => (done ?? options)(null, ...(options.all ? [[{ address: "127.0.0.1", family: 4 }]] : ["127.0.0.1", 4]));

const { KeyClient, CryptographyClient } = createRequire(join(input.modules, "package.json"))("@azure/keyvault-keys");
const scopes = new Set();
const signedIn = (token) => ({ getToken: async (s) => { scopes.add(String(s)); return { token, expiresOnTimestamp: Date.now() + 3600_000 }; } });
const options = { retryOptions: { maxRetries: 0 } };
const client = new KeyClient(input.url, signedIn(input.bearer), options);
const stranger = new KeyClient(input.url, signedIn(input.stranger), options);
const crypto = (key) => new CryptographyClient(key, signedIn(input.bearer), options);
const hex = (b) => Buffer.from(b).toString("hex");
const out = {};

async function refused(call) {
  try {
    await call();
    return { status: 0, code: "none" };
  } catch (e) {
    return { status: e.statusCode ?? 0, code: e.code ?? "" };
  }
}

const made = await client.createRsaKey("rsa", { keySize: 2048, tags: { from: "js" } });
const ec = await client.createEcKey("ec", { curve: "P-256" });
const second = await client.createRsaKey("rsa", { keySize: 3072 });
const updated = await client.updateKeyProperties("rsa", second.properties.version, { enabled: true, tags: { changed: "yes" } });
const versions = [];
for await (const v of client.listPropertiesOfKeyVersions("rsa")) versions.push(v.version);
const names = [];
for await (const page of client.listPropertiesOfKeys().byPage({ maxPageSize: 1 })) names.push(page.map((k) => k.name));
out.keys = { type: made.keyType, ecType: ec.keyType, modulus: second.key.n.length, tags: updated.properties.tags, versions: versions.length, pages: names,
  first: (await client.getKey("rsa", { version: made.properties.version })).properties.tags };

const plain = Buffer.from("a secret of 32 bytes, no more...");
const rsa = crypto(second), sealed = await rsa.encrypt("RSA-OAEP-256", plain);
const wrapped = await rsa.wrapKey("RSA-OAEP-256", plain);
out.rsa = { decrypted: hex((await rsa.decrypt("RSA-OAEP-256", sealed.result)).result), unwrapped: hex((await rsa.unwrapKey("RSA-OAEP-256", wrapped.result)).result), want: hex(plain) };
const digest = createHash("sha256").update(plain).digest();
const signature = (await rsa.sign("PS256", digest)).result;
const ecSignature = (await crypto(ec).sign("ES256", digest)).result;
const spki = createPublicKey({ format: "jwk", key: { kty: "EC", crv: ec.key.crv, x: Buffer.from(ec.key.x).toString("base64url"), y: Buffer.from(ec.key.y).toString("base64url") } });
out.signed = { ps256: (await rsa.verify("PS256", digest, signature)).result, other: (await rsa.verify("PS256", createHash("sha256").digest(), signature)).result,
  es256: createVerify("sha256").update(plain).verify({ key: spki, dsaEncoding: "ieee-p1363" }, Buffer.from(ecSignature)) };

await client.updateKeyRotationPolicy("rsa", { lifetimeActions: [{ action: "Rotate", timeAfterCreate: "P30D" }], expiresIn: "P90D" });
const policy = await client.getKeyRotationPolicy("rsa");
const rotated = await client.rotateKey("rsa");
out.rotation = { after: policy.lifetimeActions.find((a) => a.action === "Rotate").timeAfterCreate, fresh: rotated.properties.version !== second.properties.version };

const backup = await client.backupKey("ec");
const deleting = await client.beginDeleteKey("ec");
await deleting.pollUntilDone();
out.deleted = { get: await refused(() => client.getKey("ec")), twice: await refused(() => client.createEcKey("ec", { curve: "P-256" })), there: (await client.getDeletedKey("ec")).name };
const recovering = await client.beginRecoverDeletedKey("ec");
await recovering.pollUntilDone();
out.recovered = (await client.getKey("ec")).properties.version === ec.properties.version;
await (await client.beginDeleteKey("ec")).pollUntilDone();
await client.purgeDeletedKey("ec");
out.purged = await refused(() => client.getDeletedKey("ec"));
out.restored = (await client.restoreKeyBackup(backup)).properties.version === ec.properties.version;

const releasable = await client.createRsaKey("released", { keySize: 2048, exportable: true, hsm: true, releasePolicy: { encodedPolicy: Buffer.from(input.policy) } });
const released = await client.releaseKey("released", input.attestation, { version: releasable.properties.version });
out.released = JSON.parse(Buffer.from(released.value.split(".")[1], "base64url")).response.key.key.kid;
out.refused = { token: await refused(() => client.releaseKey("released", input.attestation.slice(0, -8) + "AAAAAAAA")), plain: await refused(() => client.releaseKey("rsa", input.attestation)) };
out.disabled = await (async () => {
  await client.updateKeyProperties("rsa", rotated.properties.version, { enabled: false });
  return refused(() => rsa2().encrypt("RSA-OAEP-256", plain));
})();
function rsa2() { return new CryptographyClient(rotated.id, signedIn(input.bearer), options); }
out.random = (await client.getRandomBytes(32)).length;
out.stranger = await refused(() => stranger.getKey("rsa"));
out.missing = await refused(() => client.getKey("nobody"));
out.scopes = [...scopes];
console.log(JSON.stringify(out));
