// Opens a page of a file in headless Chromium, and prints what it logs. At the end, which comes by SIGINT, it clicks the
// buttons of all alerts, and prints the rows that the page shows. usage: node page.mjs CHROMIUM URL

import { chromium } from "playwright-core";

const [executablePath, url] = process.argv.slice(2);
const stopped = new Promise((resolve) => process.once("SIGINT", resolve));

// Nothing but the page is to be loaded, whatever the machine can reach.
const quiet = ["--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update"];
const args = ["--no-sandbox", "--disable-gpu", "--disable-sync", ...quiet];
const browser = await chromium.launch({ executablePath, headless: true, args, handleSIGINT: false });
const page = await browser.newPage();
// What the page itself prints; the browser complains there of connections that failed, too.
page.on("console", (message) => (message.type() === "log" ? console.log : console.error)(message.text()));
page.on("pageerror", (error) => console.error(error));
await page.goto(url);
await page.waitForFunction(() => document.getElementById("status").textContent === "subscribed");
console.error("subscribed");
await stopped;
for (const button of await page.$$("#events button")) await button.click();
await page.waitForFunction(() => document.querySelector("#events button") === null);
const rows = await page.$$eval("#events tr", (rows) => rows.map((row) => row.innerText.replaceAll("\t", " ")));
console.error(`shown ${JSON.stringify(rows)}`);
await page.goto("about:blank");
await browser.close();
