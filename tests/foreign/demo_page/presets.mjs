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

// The subscription of the page as the gateway has confirmed it last, and a wait until it is another one. The page has a
// second subscription, whose confirmation may come in between.
let confirmed = "";
let arrived = () => {};
page.on("websocket", (socket) => {
  socket.on("framereceived", ({ payload }) => {
    for (const { T, subscriptions } of JSON.parse(payload)) {
      if (T === "subscribed" && subscriptions.page) confirmed = JSON.stringify(subscriptions.page);
    }
    arrived();
  });
});
async function confirmation(former) {
  while (confirmed === former) await new Promise((resolve) => (arrived = resolve));
  return confirmed;
}

await page.goto(url);
let subscription = await confirmation(""); // That of the page without a preset.
const presets = await page.$$eval("#preset option", (options) => options.map(({ value }) => value).filter(Boolean));
for (const preset of presets) {
  await page.selectOption("#preset", preset);
  if (await page.isVisible("#patterns")) await page.fill("#patterns", patterns);
  subscription = await confirmation(subscription);
  await page.waitForFunction(() => document.getElementById("answer").textContent.startsWith("Subscribed."));
  console.log(JSON.stringify({ preset, ...JSON.parse(subscription) }));
}
await interrupted;
await page.waitForSelector("#events tr");
const rows = await page.$$eval("#events tr", (rows) =>
  rows.map((row) => [...row.cells].slice(1, 4).map((cell) => cell.textContent).join(" ")),
);
console.log(JSON.stringify(rows));
await page.goto("about:blank");
await browser.close();
