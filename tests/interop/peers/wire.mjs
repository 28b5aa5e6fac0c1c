// A fetch that remembers each exchange, and the one line of JSON in which a client peer reports.

const RECEIPT_HEADERS = ["payment-response", "x-payment-response"];

/** Why a server refused: the `error` of a v2 challenge, else the text of the body. */
async function refusalOf(response) {
  if (response.status < 400) return null;
  const challenge = response.headers.get("payment-required");
  if (challenge) return JSON.parse(Buffer.from(challenge, "base64").toString("utf8")).error ?? null;
  return (await response.clone().text()).slice(0, 500);
}

/**
 * Plain fetch under the paying one. With `hideV2` the caller sees what a client that predates
 * v2 understands of a 402: the JSON body, not the PAYMENT-REQUIRED header.
 */
export function recordingFetch(exchanges, { hideV2 = false } = {}) {
  return async (input, init) => {
    const request = new Request(input, init);
    const paidWith = ["payment-signature", "x-payment"].filter((name) => request.headers.has(name));
    const response = await fetch(request);
    exchanges.push({ status: response.status, paidWith, refusal: await refusalOf(response) });
    if (!hideV2 || !response.headers.has("payment-required")) return response;
    const headers = new Headers(response.headers);
    headers.delete("payment-required");
    return new Response(response.body, { status: response.status, headers });
  };
}

function receiptOf(response) {
  for (const name of RECEIPT_HEADERS) {
    const value = response.headers.get(name);
    if (value) return JSON.parse(Buffer.from(value, "base64").toString("utf8"));
  }
  return null;
}

/** Sends METHOD TARGET_URL with BODY through `payingFetch` and prints the verdict. */
export async function report(sdk, exchanges, payingFetch) {
  const result = { sdk, ok: false };
  const { TARGET_URL, METHOD = "GET", BODY } = process.env;
  try {
    const init = { method: METHOD };
    if (BODY !== undefined) Object.assign(init, { body: BODY, headers: { "content-type": "application/json" } });
    const response = await (await payingFetch())(TARGET_URL, init);
    const body = (await response.text()).slice(0, 20_000);
    Object.assign(result, { ok: response.ok, status: response.status, body, receipt: receiptOf(response) });
  } catch (error) {
    result.error = `${error.name}: ${error.message}`;
  }
  // Keep-alive sockets would hold the process open for seconds; the verdict is all it is for.
  process.stdout.write(JSON.stringify({ ...result, exchanges }) + "\n", () => process.exit(0));
}

/** Listens on loopback and announces it as `ready http://127.0.0.1:PORT`. */
export function serve(app) {
  const server = app.listen(Number(process.env.PORT ?? 0), "127.0.0.1", (error) => {
    if (error) throw error;
    console.log(`ready http://127.0.0.1:${server.address().port}`);
  });
}
