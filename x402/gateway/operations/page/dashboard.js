"use strict";

const REFRESH_MS = 5000;
const DIGITS = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
let hours = 24;
let timer = 0;

const at = (id) => document.getElementById(id);

function element(name, text, kind) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

function show(place) {
  at("door").hidden = place !== "door";
  for (const id of ["board", "hours", "leave"]) at(id).hidden = place !== "board";
}

function told(words) {
  at("refusal").textContent = words;
}

function clock(second) {
  const when = new Date(second * 1000);
  const time = when.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  return hours > 24 ? when.toLocaleDateString([], { month: "short", day: "numeric" }) + " " + time : time;
}

function age(seconds) {
  if (seconds === null) return "none waits";
  if (seconds < 90) return `oldest ${seconds} s`;
  return seconds < 5400 ? `oldest ${Math.round(seconds / 60)} min` : `oldest ${Math.round(seconds / 3600)} h`;
}

const ms = (value) => (value === null ? "–" : value < 1000 ? `${value} ms` : `${(value / 1000).toFixed(1)} s`);
const short = (text) => (text.length > 22 ? text.slice(0, 12) + "…" + text.slice(-6) : text);

function named(account) {
  return account.startsWith("key:") ? account : short(account.split(":").pop());
}

function tiles(data) {
  const wrong = data.errors.failed + data.errors.refused + data.errors.owed;
  const all = [
    ["$" + data.revenue, "revenue", ""],
    [String(data.answers), `answers, ${data.payments} payments`, ""],
    ["$" + data.received, "received on chain", ""],
    ["$" + data.held, "held for customers", ""],
    [ms(data.latency_ms.p50), `latency, p95 ${ms(data.latency_ms.p95)}`, ""],
    [ms(data.first_token_ms.p50), "first token", ""],
    [String(data.pending.payments), `pending, ${age(data.pending.oldest_seconds)}`, data.pending.oldest_seconds > 600 ? "bad" : ""],
    [String(wrong), `errors: ${data.errors.failed} failed, ${data.errors.refused} refused, ${data.errors.owed} owed`, data.errors.owed ? "bad" : ""],
  ];
  at("tiles").replaceChildren(...all.map(([figure, words, kind]) => {
    const tile = element("div", undefined, "tile");
    tile.append(element("b", figure, kind), element("span", words));
    return tile;
  }));
}

function curve(points) {
  const most = Math.max(...points.map((point) => Number(point.charged)), 0);
  const width = 960 / points.length;
  at("curve").replaceChildren(...points.map((point, index) => {
    const bar = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    const height = most ? Math.max((Number(point.charged) / most) * 176, 1.5) : 1.5;
    const place = { x: index * width + 1, y: 180 - height, width: width - 2, height };
    for (const [name, value] of Object.entries(place)) bar.setAttribute(name, value.toFixed(2));
    if (!Number(point.charged)) bar.setAttribute("class", "none");
    const title = document.createElementNS("http://www.w3.org/2000/svg", "title");
    title.textContent = `${clock(point.at)}: $${point.charged}, ${point.answers} answers`;
    bar.append(title);
    return bar;
  }));
  at("curve-unit").textContent = most ? `up to $${most} a bar` : "nothing yet";
  at("curve-ends").replaceChildren(element("span", clock(points[0].at)), element("span", "now"));
}

function table(id, titles, rows) {
  const head = element("tr");
  head.append(...titles.map(([title, kind]) => element("th", title, kind)));
  const lines = rows.map((cells) => {
    const line = element("tr");
    line.append(...cells.map(([content, kind]) => {
      if (typeof content === "string") return element("td", content, kind);
      const cell = element("td", undefined, kind);
      cell.append(content);
      return cell;
    }));
    return line;
  });
  if (!lines.length) {
    const line = element("tr");
    line.append(element("td", "nothing yet", "note"));
    lines.push(line);
  }
  at(id).replaceChildren(...(rows.length ? [head] : []), ...lines);
}

function sums(id, title, groups, spell) {
  const rows = groups.map((one) => [[spell(one.name), "cut"], [String(one.answers), "number"], [String(one.tokens), "number"], ["$" + one.charged, "number"]]);
  table(id, [[title], ["answers", "number"], ["tokens", "number"], ["charged", "number"]], rows);
}

function link(receipt) {
  if (!receipt.url) return short(receipt.transaction);
  const made = element("a", short(receipt.transaction));
  made.href = receipt.url;
  made.rel = "noreferrer";
  made.target = "_blank";
  return made;
}

function draw(data) {
  const well = Object.values(data.checks).every(Boolean);
  at("state").textContent = (well ? "All is well" : "Something needs you") + `, ${new Date(data.at * 1000).toLocaleTimeString()}`;
  at("state").className = well ? "good" : "bad";
  for (const button of at("hours").children) button.setAttribute("aria-pressed", String(Number(button.dataset.hours) === hours));
  tiles(data);
  curve(data.series);
  sums("models", "model", data.models, short);
  sums("payers", "payer", data.payers, named);
  table("providers", [["provider"], ["model"], ["health", "number"], ["latency", "number"]], data.providers.flatMap((one) =>
    one.models.map((model) => [[one.name, "cut"], [model.id, "cut"], [model.status, model.status === "outage" ? "number bad" : "number"], [ms(model.latency_ms), "number"]])));
  table("checks", [["what"], ["well", "number"]], Object.entries(data.checks).map(([name, good]) => [[name, ""], [good ? "yes" : "no", good ? "number good" : "number bad"]]));
  table("receipts", [["when"], ["payer"], ["network"], ["transaction"], ["state"], ["amount", "number"]], data.receipts.map((one) =>
    [[clock(one.at), ""], [short(one.payer), "cut"], [one.network, ""], [link(one), "cut"], [one.state, one.state === "owed" ? "bad" : ""], ["$" + one.amount, "number"]]));
}

async function refresh() {
  clearTimeout(timer);
  try {
    const answer = await fetch(`/operator/overview?hours=${hours}`, { cache: "no-store" });
    if (answer.status === 401) return show("door");
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    draw(await answer.json());
    show("board");
  } catch (error) {
    at("state").textContent = `The gateway does not answer (${error.message})`;
    at("state").className = "bad";
  }
  timer = setTimeout(refresh, REFRESH_MS);
}

async function enter(header) {
  const answer = await fetch("/operator/session", { method: "POST", headers: { "SIGN-IN-WITH-X": header.trim() } });
  if (answer.ok) {
    told("");
    return refresh();
  }
  const body = await answer.json();
  told(body.error.message);
}

async function message(account) {
  const answer = await fetch(`/operator/message?account=${encodeURIComponent(account)}`);
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.error.message);
  return body.message;
}

function base58(bytes) {
  let number = 0n;
  for (const byte of bytes) number = number * 256n + BigInt(byte);
  let text = "";
  for (; number > 0n; number /= 58n) text = DIGITS[Number(number % 58n)] + text;
  for (const byte of bytes) {
    if (byte) break;
    text = "1" + text;
  }
  return text;
}

async function withEvm() {
  if (!window.ethereum) throw new Error("this browser has no EVM wallet");
  const [address] = await window.ethereum.request({ method: "eth_requestAccounts" });
  const chain = Number(await window.ethereum.request({ method: "eth_chainId" }));
  const text = await message(`eip155:${chain}:${address}`);
  const hex = "0x" + Array.from(new TextEncoder().encode(text), (byte) => byte.toString(16).padStart(2, "0")).join("");
  return { message: text, signature: await window.ethereum.request({ method: "personal_sign", params: [hex, address] }) };
}

async function withSolana() {
  if (!window.solana) throw new Error("this browser has no Solana wallet");
  const { publicKey } = await window.solana.connect();
  const text = await message(`solana:${publicKey.toString()}`);
  const { signature } = await window.solana.signMessage(new TextEncoder().encode(text), "utf8");
  return { message: text, signature: base58(signature) };
}

function signing(way) {
  return async () => {
    try {
      told("");
      await enter(btoa(JSON.stringify(await way())));
    } catch (error) {
      told(error.message);
    }
  };
}

at("origin").textContent = location.origin;
at("evm").addEventListener("click", signing(withEvm));
at("svm").addEventListener("click", signing(withSolana));
at("paste").addEventListener("submit", (event) => {
  event.preventDefault();
  enter(at("header").value);
});
at("hours").addEventListener("click", (event) => {
  if (!event.target.dataset.hours) return;
  hours = Number(event.target.dataset.hours);
  refresh();
});
at("leave").addEventListener("click", async () => {
  await fetch("/operator/session", { method: "DELETE" });
  clearTimeout(timer);
  at("state").textContent = "";
  show("door");
});
refresh();
