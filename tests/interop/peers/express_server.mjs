// An Express seller behind the official TypeScript SDK's payment middleware.
//
//   GET /evm   GET /svm   paid on one chain          POST /both   paid on either, echoes its JSON body
//   GET /free  not paid                              GET /served  how often each paid handler ran
//
// Environment: PORT, FACILITATOR_URL, EVM_PAY_TO, SVM_PAY_TO, PRICE ($0.001), EVM_NETWORK, SVM_NETWORK (CAIP-2).
// Routes of a chain exist only if its PAY_TO is given.
import { HTTPFacilitatorClient } from "@x402/core/server";
import { ExactEvmScheme } from "@x402/evm/exact/server";
import { paymentMiddlewareFromHTTPServer, x402HTTPResourceServer, x402ResourceServer } from "@x402/express";
import { ExactSvmScheme } from "@x402/svm/exact/server";
import express from "express";
import { serve } from "./wire.mjs";

const { FACILITATOR_URL, EVM_PAY_TO, SVM_PAY_TO, PRICE = "$0.001", EVM_NETWORK = "eip155:84532" } = process.env;
const { SVM_NETWORK = "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1" } = process.env;

const seller = new x402ResourceServer(new HTTPFacilitatorClient({ url: FACILITATOR_URL }));
const options = {};
if (EVM_PAY_TO) {
  seller.register(EVM_NETWORK, new ExactEvmScheme());
  options.evm = { scheme: "exact", price: PRICE, network: EVM_NETWORK, payTo: EVM_PAY_TO };
}
if (SVM_PAY_TO) {
  seller.register(SVM_NETWORK, new ExactSvmScheme());
  options.svm = { scheme: "exact", price: PRICE, network: SVM_NETWORK, payTo: SVM_PAY_TO };
}
const routes = Object.fromEntries(Object.entries(options).map(([chain, o]) => [`GET /${chain}`, { accepts: [o] }]));
routes["POST /both"] = { accepts: Object.values(options) };

// Asked before listening, so that a facilitator which does not support a route is told at once.
const guard = new x402HTTPResourceServer(seller, routes);
await guard.initialize();

const served = {};
const count = (name) => { served[name] = (served[name] ?? 0) + 1; };
const app = express();
app.use(express.json());
app.use(paymentMiddlewareFromHTTPServer(guard, undefined, undefined, false));
app.get(["/evm", "/svm"], (_request, response) => {
  count("report");
  response.json({ report: "sunny", seller: "official Express middleware" });
});
app.post("/both", (request, response) => {
  count("echo");
  response.json({ echo: request.body, seller: "official Express middleware" });
});
app.get("/free", (_request, response) => response.json({ report: "free of charge" }));
app.get("/served", (_request, response) => response.json(served));
serve(app);
