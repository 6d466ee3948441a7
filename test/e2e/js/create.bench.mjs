// Creates a sandbox per line of standard input, runs one echo in it and
// prints how many milliseconds that took. Closing it is not counted.

import { createInterface } from "node:readline";
import { Sandbox } from "@deno/sandbox";

for await (const _ of createInterface({ input: process.stdin })) {
  const began = performance.now();
  const sandbox = await Sandbox.create();
  const text = await sandbox.sh`echo hello`.text();
  const took = performance.now() - began;
  if (text !== "hello\n") throw new Error(`echo said ${JSON.stringify(text)}`);
  await sandbox.kill();
  console.log(took);
}
