// Runs Azure's attestation client against a service, and prints what it gave: one JSON object.
// Arguments: the file of a JSON object {modules, url, bearer, stranger, policy, report}.
import { createRequire } from "node:module";
import { createVerify, X509Certificate } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";

const input = JSON.parse(readFileSync(process.argv[2], "utf8"));
const sdk = createRequire(join(input.modules, "package.json"))("@azure/attestation");
const signedIn = (token) => ({ getToken: async () => ({ token, expiresOnTimestamp: Date.now() + 3600_000 }) });
const options = { retryOptions: { maxRetries: 0 }, validationOptions: { validateToken: true, validateExpirationTime: true, validateNotBeforeTime: true, validateIssuer: true, expectedIssuer: input.issuer } };
const client = new sdk.AttestationClient(input.url, options);
const admin = new sdk.AttestationAdministrationClient(input.url, signedIn(input.bearer), options);
const stranger = new sdk.AttestationAdministrationClient(input.url, signedIn(input.stranger), options);
const out = {};

// refused runs a call that must fail, and tells how.
async function refused(call) {
  try {
    await call();
    return { status: 0, code: "none" };
  } catch (e) {
    return { status: e.statusCode ?? 0, code: e.code ?? "", message: e.message };
  }
}

const metadata = await client.getOpenIdMetadata();
out.metadata = { issuer: metadata.issuer, jwksUri: metadata.jwksUri ?? metadata.jwks_uri };
const signers = await client.getAttestationSigners();
out.signers = signers.map((s) => ({ kid: s.keyId, certificates: s.certificates.length }));

for (const kind of ["SevSnpVm", "TdxVm", "AzureGuest"]) {
  const before = (await admin.getPolicy(kind)).body;
  const set = (await admin.setPolicy(kind, input.policy)).body;
  const after = (await admin.getPolicy(kind)).body;
  const reset = (await admin.resetPolicy(kind)).body;
  const again = (await admin.getPolicy(kind)).body;
  out[kind] = { before, set: set.policyResolution, hash: Buffer.from(set.policyTokenHash ?? "").toString("base64url"), after, reset: reset.policyResolution, again };
}
out.syntax = await refused(() => admin.setPolicy("SevSnpVm", "version=1.0; authorizationrules { nonsense };"));
out.stranger = await refused(() => stranger.setPolicy("SevSnpVm", input.policy));
out.unknown = await refused(() => client.attestSgxEnclave(new Uint8Array(8)));

// The client has no call for SEV-SNP: the request is the protocol's, the token is checked by the client's signers.
const reply = await fetch(`${input.url}/attest/SevSnpVm?api-version=2022-08-01`, { method: "POST", headers: { "content-type": "application/json" }, body: input.report });
const { token } = await reply.json();
const [head, body, signature] = token.split(".");
const kid = JSON.parse(Buffer.from(head, "base64url")).kid;
const signer = signers.find((s) => s.keyId === kid);
out.token = {
  status: reply.status,
  verified: createVerify("RSA-SHA256").update(`${head}.${body}`).verify(new X509Certificate(signer.certificates[0]).publicKey, signature, "base64url"),
  claims: JSON.parse(Buffer.from(body, "base64url")),
};
console.log(JSON.stringify(out));
