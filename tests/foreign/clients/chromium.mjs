// Opens a page in headless Chromium that runs one script of a folder, and prints its log until SIGINT. Usage: node chromium.mjs CHROMIUM FOLDER SCRIPT

import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { chromium } from "playwright-core";

const [executablePath, folder, script] = process.argv.slice(2);
const interrupted = new Promise((resolve) => process.once("SIGINT", resolve));

// Modules are loaded from servers only, and a page of a server has an origin.
const server = createServer(async ({ url }, answer) => {
  if (url === "/") {
    answer.setHeader("Content-Type", "text/html").end(`<!doctype html><link rel="icon" href="data:,"><script type="module" src="/${script}"></script>`);
  } else if (/^\/[\w-]+\.js$/.test(url)) {
    answer.setHeader("Content-Type", "text/javascript").end(await readFile(folder + url));
  } else {
    answer.writeHead(404).end();
  }
});
await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));

// The browser must load nothing except the page, on any machine.
const quiet = ["--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update"];
const args = ["--no-sandbox", "--disable-gpu", "--disable-sync", ...quiet];
const browser = await chromium.launch({ executablePath, headless: true, args, handleSIGINT: false });
const page = await browser.newPage();
// The output of the page itself. The browser also logs failed connections there.
page.on("console", (message) => (message.type() === "log" ? console.log : console.error)(message.text()));
page.on("pageerror", (error) => console.error(error));
await page.goto(`http://127.0.0.1:${server.address().port}/`);
await interrupted;
await page.goto("about:blank");
await browser.close();
server.close();
