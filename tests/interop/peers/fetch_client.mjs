// The official TypeScript SDK's fetch client (@x402/fetch): asks for one URL, pays, prints the verdict.
//
// Environment: TARGET_URL, METHOD (GET), BODY (JSON text);
//   NETWORK       the only network to pay on: CAIP-2, or the v1 name when X402_VERSION is 1
//   X402_VERSION  2, or 1 to answer the challenge as a client that predates the v2 header
//   EVM_PRIVATE_KEY (0x-hex), SVM_PRIVATE_KEY (base58 of 64 bytes), SVM_RPC_URL
import { base58 } from "@scure/base";
import { createKeyPairSignerFromBytes } from "@solana/kit";
import { ExactEvmScheme } from "@x402/evm/exact/client";
import { ExactEvmSchemeV1 } from "@x402/evm/exact/v1/client";
import { wrapFetchWithPayment, x402Client } from "@x402/fetch";
import { ExactSvmScheme } from "@x402/svm/exact/client";
import { ExactSvmSchemeV1 } from "@x402/svm/exact/v1/client";
import { privateKeyToAccount } from "viem/accounts";
import { recordingFetch, report } from "./wire.mjs";

const { EVM_PRIVATE_KEY, SVM_PRIVATE_KEY, SVM_RPC_URL, NETWORK } = process.env;
const exchanges = [];

async function payingFetch() {
  const client = new x402Client();
  if (EVM_PRIVATE_KEY) {
    const account = privateKeyToAccount(EVM_PRIVATE_KEY);
    client.register("eip155:*", new ExactEvmScheme(account));
    client.registerV1("base-sepolia", new ExactEvmSchemeV1(account));
  }
  if (SVM_PRIVATE_KEY) {
    const signer = await createKeyPairSignerFromBytes(base58.decode(SVM_PRIVATE_KEY));
    client.register("solana:*", new ExactSvmScheme(signer, { rpcUrl: SVM_RPC_URL }));
    client.registerV1("solana-devnet", new ExactSvmSchemeV1(signer, { rpcUrl: SVM_RPC_URL }));
  }
  if (NETWORK) client.registerPolicy((_version, offers) => offers.filter((o) => o.network === NETWORK));
  return wrapFetchWithPayment(recordingFetch(exchanges, { hideV2: process.env.X402_VERSION === "1" }), client);
}

await report("@x402/fetch 2.27.0", exchanges, payingFetch);
