// Deploys a template by Azure's clients, looks at the VM and deletes it, and prints what they gave: one JSON object.
// Arguments: the file of a JSON object {modules, url, bearer, stranger, subscription, group, template, circle, parameters}.
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { join } from "node:path";

const input = JSON.parse(readFileSync(process.argv[2], "utf8"));
const require = createRequire(join(input.modules, "package.json"));
const { DeploymentsClient } = require("@azure/arm-resourcesdeployments");
const { ComputeManagementClient } = require("@azure/arm-compute");
const signedIn = (token) => ({ getToken: async () => ({ token, expiresOnTimestamp: Date.now() + 3600_000 }) });
const options = { endpoint: input.url, retryOptions: { maxRetries: 0 }, credentials: { scopes: [input.url + "/.default"] } };
const client = new DeploymentsClient(signedIn(input.bearer), input.subscription, options);
const stranger = new DeploymentsClient(signedIn(input.stranger), input.subscription, options);
const compute = new ComputeManagementClient(signedIn(input.bearer), input.subscription, options);
const quick = { updateIntervalInMs: 50 };
const out = {};

async function refused(call) {
  try {
    await call();
    return { status: 0, code: "none" };
  } catch (e) {
    return { status: Number(e.statusCode ?? 0), code: e.code ?? "" };
  }
}

const wanted = { properties: { mode: "Incremental", template: JSON.parse(input.template), parameters: input.parameters } };
const circle = { properties: { mode: "Incremental", template: JSON.parse(input.circle), parameters: {} } };
out.circle = await refused(() => client.deployments.createOrUpdate(input.group, "circle", circle, quick));
out.stranger = await refused(() => stranger.deployments.createOrUpdate(input.group, "d", wanted, quick));
out.missing = await refused(() => client.deployments.get(input.group, "d"));
const checked = await client.deployments.validate(input.group, "d", wanted, quick);
out.validated = (checked.properties.validatedResources ?? []).length;
const made = await client.deployments.createOrUpdate(input.group, "d", wanted, quick);
out.made = { state: made.properties.provisioningState, address: made.properties.outputs.address.value, secret: "value" in made.properties.outputs.data, resources: made.properties.outputResources.length };
out.operations = [];
for await (const o of client.deploymentOperations.list(input.group, "d")) out.operations.push(o.properties.provisioningState);
out.listed = [];
for await (const d of client.deployments.listByResourceGroup(input.group)) out.listed.push(d.name);
out.exported = (await client.deployments.exportTemplate(input.group, "d")).template.contentVersion;
const vm = await compute.virtualMachines.get(input.group, "web", { expand: "instanceView" });
out.vm = { id: vm.vmId ?? vm.properties?.vmId, power: (vm.instanceView ?? vm.properties?.instanceView).statuses.map((s) => s.code), output: made.properties.outputs.vmId.value };
await compute.virtualMachines.delete(input.group, "web", quick);
out.gone = await refused(() => compute.virtualMachines.get(input.group, "web"));
await client.deployments.delete(input.group, "d", quick);
out.forgotten = await refused(() => client.deployments.get(input.group, "d"));
process.stdout.write(JSON.stringify(out));
