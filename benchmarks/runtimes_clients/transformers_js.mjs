// Uses compiled folders by transformers.js in Node: node transformers_js.mjs JOB RESULT PACKAGE

import { readFileSync, writeFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { pathToFileURL } from "node:url";

import { outputsOf } from "./transformers_js_uses.mjs";

const [, , jobFile, resultFile, packageFolder] = process.argv;
const job = JSON.parse(readFileSync(jobFile));
const told = JSON.parse(readFileSync(join(packageFolder, "package.json")));
const entry = join(packageFolder, told.exports.node.import.default);
const library = await import(pathToFileURL(entry));
library.env.allowRemoteModels = false;
library.env.localModelPath = dirname(job.folder);

const result = {};
try {
  const read = async (file) => new Uint8Array(readFileSync(file)).buffer;
  result.outputs = await outputsOf(library, job, basename(job.folder), read);
} catch (error) {
  result.error = String(error);
}
writeFileSync(resultFile, JSON.stringify(result));
process.exit(0);
