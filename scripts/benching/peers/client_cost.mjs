// The official TypeScript SDK's client, step by step: microseconds a call, as one line of JSON.
// The challenge comes on standard input.
import { readFileSync } from "node:fs";
import { x402Client, x402HTTPClient } from "@x402/fetch";
import { ExactEvmScheme } from "@x402/evm/exact/client";
import { generatePrivateKey, privateKeyToAccount } from "viem/accounts";

const SECONDS = 1;

async function microseconds(work) {
  for (let i = 0; i < 20; i += 1) await work();
  const samples = [];
  const until = performance.now() + SECONDS * 1000;
  while (performance.now() < until || samples.length < 50) {
    const begun = performance.now();
    await work();
    samples.push(performance.now() - begun);
  }
  samples.sort((one, other) => one - other);
  return samples[Math.floor(samples.length / 2)] * 1000;
}

const asked = JSON.parse(readFileSync(0, "utf8"));
const header = Buffer.from(JSON.stringify(asked)).toString("base64");
const client = new x402Client().register("eip155:*", new ExactEvmScheme(privateKeyToAccount(generatePrivateKey())));
const http = new x402HTTPClient(client);
const read = () => http.getPaymentRequiredResponse((name) => (name.toLowerCase() === "payment-required" ? header : null), undefined);
const required = read();
const payload = await client.createPaymentPayload(required);
const told = {
  "client-read": await microseconds(read),
  "client-sign": await microseconds(() => client.createPaymentPayload(required)),
  "client-encode": await microseconds(() => http.encodePaymentSignatureHeader(payload)),
};
console.log(JSON.stringify(told));
