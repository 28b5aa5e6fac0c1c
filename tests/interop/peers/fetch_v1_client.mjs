// The v1 generation's fetch client (x402-fetch 1.x), which knows nothing of v2.
//
// Environment: TARGET_URL, METHOD (GET), BODY (JSON text); NETWORK (base-sepolia or solana-devnet);
//   EVM_PRIVATE_KEY (0x-hex) or SVM_PRIVATE_KEY (base58 of 64 bytes), SVM_RPC_URL;
//   MAX_VALUE in atomic USDC (100000, which is the SDK's own default).
import { createSigner, wrapFetchWithPayment } from "x402-fetch";
import { recordingFetch, report } from "./wire.mjs";

const { EVM_PRIVATE_KEY, SVM_PRIVATE_KEY, SVM_RPC_URL, NETWORK, MAX_VALUE = "100000" } = process.env;
const exchanges = [];

async function payingFetch() {
  const key = NETWORK.startsWith("solana") ? SVM_PRIVATE_KEY : EVM_PRIVATE_KEY;
  const signer = await createSigner(NETWORK, key);
  const config = SVM_RPC_URL ? { svmConfig: { rpcUrl: SVM_RPC_URL } } : undefined;
  return wrapFetchWithPayment(recordingFetch(exchanges), signer, BigInt(MAX_VALUE), undefined, config);
}

await report("x402-fetch 1.2.0", exchanges, payingFetch);
