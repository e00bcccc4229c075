// Opens the demo page of a gateway in headless Chromium, chooses each preset, and prints the subscription that the gateway
// has confirmed, one JSON object a line. At the end, which comes by SIGINT, it prints the rows that the page shows.
// Usage: node presets.mjs CHROMIUM URL PATTERNS

import { chromium } from "playwright-core";

const [executablePath, url, patterns] = process.argv.slice(2);
const interrupted = new Promise((resolve) => process.once("SIGINT", resolve));

// The browser must load nothing except the page, on any machine.
const quiet = ["--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update"];
const args = ["--no-sandbox", "--disable-gpu", "--disable-sync", ...quiet];
const browser = await chromium.launch({ executablePath, headless: true, args, handleSIGINT: false });
const page = await browser.newPage();
page.on("pageerror", (error) => console.error(error));

// The confirmations that the page has received, and a wait for the next one.
const confirmed = [];
let arrived = () => {};
page.on("websocket", (socket) => {
  socket.on("framereceived", ({ payload }) => {
    confirmed.push(...JSON.parse(payload).filter((message) => message.T === "subscribed"));
    arrived();
  });
});
async function confirmation(number) {
  while (confirmed.length < number) await new Promise((resolve) => (arrived = resolve));
  return confirmed[number - 1].subscriptions.page;
}

await page.goto(url);
await confirmation(1); // That of the page without a preset.
const presets = await page.$$eval("#preset option", (options) => options.map(({ value }) => value).filter(Boolean));
for (const [index, preset] of presets.entries()) {
  await page.selectOption("#preset", preset);
  if (await page.isVisible("#patterns")) await page.fill("#patterns", patterns);
  const subscription = await confirmation(index + 2);
  await page.waitForFunction(() => document.getElementById("answer").textContent.startsWith("Subscribed."));
  console.log(JSON.stringify({ preset, ...subscription }));
}
await interrupted;
await page.waitForSelector("#events tr");
const rows = await page.$$eval("#events tr", (rows) =>
  rows.map((row) => [...row.cells].slice(1, 4).map((cell) => cell.textContent).join(" ")),
);
console.log(JSON.stringify(rows));
await page.goto("about:blank");
await browser.close();
