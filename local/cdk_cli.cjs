// Runs commands of the CDK CLI one after another in one process, and polls without its pauses of seconds.
//
//     node local/cdk_cli.cjs '[["bootstrap", "aws://..."], ["deploy", "--all", ...]]'
//
// Loading the CLI takes a second of CPU time, and CloudFormation is polled every five seconds: too slow for an AWS on
// the same machine, which has done its work by then. Works with the CLI that package-lock.json pins.
"use strict";

const path = require("node:path");

const POLL_MS = 100;
const pause = globalThis.setTimeout;
globalThis.setTimeout = (callback, ms, ...rest) => pause(callback, ms >= 1000 && ms <= 5000 ? POLL_MS : ms, ...rest);

const { exec } = require(path.join(__dirname, "..", "node_modules", "aws-cdk", "lib", "index.js"));

async function main(commands) {
  for (const command of commands) {
    const code = (await exec(command)) || process.exitCode;
    if (code) {
      process.exit(code);
    }
  }
  process.exit(0); // the CLI's own watchers would hold it
}

main(JSON.parse(process.argv[2])).catch((error) => {
  console.error(error.message);
  process.exit(1);
});
