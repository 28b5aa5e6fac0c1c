// The official TypeScript SDK as a facilitator on Base Sepolia and Solana devnet, v2 and v1.
//
// Environment: PORT, EVM_PRIVATE_KEY (0x-hex), EVM_RPC_URL, SVM_PRIVATE_KEY (base58 of 64 bytes), SVM_RPC_URL.
// A chain is served only if its key is given.
import { base58 } from "@scure/base";
import { createKeyPairSignerFromBytes } from "@solana/kit";
import { x402Facilitator } from "@x402/core/facilitator";
import { toFacilitatorEvmSigner } from "@x402/evm";
import { registerExactEvmScheme } from "@x402/evm/exact/facilitator";
import { toFacilitatorSvmSigner } from "@x402/svm";
import { registerExactSvmScheme } from "@x402/svm/exact/facilitator";
import express from "express";
import { createWalletClient, http, publicActions } from "viem";
import { nonceManager, privateKeyToAccount } from "viem/accounts";
import { baseSepolia } from "viem/chains";
import { serve } from "./wire.mjs";

const { EVM_PRIVATE_KEY, EVM_RPC_URL, SVM_PRIVATE_KEY, SVM_RPC_URL } = process.env;
const { SVM_NETWORK = "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1" } = process.env;

/** viem's client in the shape the SDK asks of an EVM signer. */
function evmSigner() {
  // Without the nonce manager, settlements that overlap collide.
  const account = privateKeyToAccount(EVM_PRIVATE_KEY, { nonceManager });
  const client = createWalletClient({
    account,
    chain: baseSepolia,
    pollingInterval: 50,
    transport: http(EVM_RPC_URL),
  }).extend(publicActions);
  return toFacilitatorEvmSigner({
    address: account.address,
    getCode: (args) => client.getCode(args),
    readContract: (args) => client.readContract({ ...args, args: args.args ?? [] }),
    verifyTypedData: (args) => client.verifyTypedData(args),
    writeContract: (args) => client.writeContract({ ...args, args: args.args ?? [] }),
    sendTransaction: (args) => client.sendTransaction(args),
    waitForTransactionReceipt: (args) => client.waitForTransactionReceipt(args),
  });
}

const facilitator = new x402Facilitator();
if (EVM_PRIVATE_KEY) registerExactEvmScheme(facilitator, { signer: evmSigner(), networks: "eip155:84532" });
if (SVM_PRIVATE_KEY) {
  const keypair = await createKeyPairSignerFromBytes(base58.decode(SVM_PRIVATE_KEY));
  const signer = toFacilitatorSvmSigner(keypair, { defaultRpcUrl: SVM_RPC_URL });
  registerExactSvmScheme(facilitator, { signer, networks: SVM_NETWORK });
}

const app = express();
app.use(express.json({ limit: "1mb" }));
for (const step of ["verify", "settle"]) {
  app.post(`/${step}`, async (request, response) => {
    try {
      response.json(await facilitator[step](request.body.paymentPayload, request.body.paymentRequirements));
    } catch (error) {
      response.status(500).json({ error: `${error.name}: ${error.message}` });
    }
  });
}
app.get("/supported", (_request, response) => response.json(facilitator.getSupported()));
serve(app);
