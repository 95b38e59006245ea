// Uses compiled folders by transformers.js in Node: node transformers_js.mjs JOB RESULT PACKAGE

import { readFileSync, writeFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { pathToFileURL } from "node:url";

const [, , jobFile, resultFile, packageFolder] = process.argv;
const job = JSON.parse(readFileSync(jobFile));
const told = JSON.parse(readFileSync(join(packageFolder, "package.json")));
const entry = join(packageFolder, told.exports.node.import.default);
const library = await import(pathToFileURL(entry));
const { env, pipeline } = library;
env.allowRemoteModels = false;
env.localModelPath = dirname(job.folder);

// 16-bit WAV of one channel, as numbers in [-1, 1]: what lies behind its header of 44 bytes.
function samples(file) {
  const data = readFileSync(file).subarray(44);
  const values = new Float32Array(data.length >> 1);
  for (let at = 0; at < values.length; at++) values[at] = data.readInt16LE(2 * at) / 32768;
  return values;
}

const uses = {
  "feature-extraction": async (use, text) =>
    (await use(text, { pooling: "mean", normalize: true })).tolist()[0],
  "image-classification": async (use, file) => {
    const [best] = await use(file, { top_k: 1 });
    return [best.score, best.label];
  },
  "text2text-generation": async (use, text) =>
    (await use(text, { max_new_tokens: job.tokens, num_beams: 1 }))[0].generated_text.trim(),
  // Not by its pipeline, which wants the tokenizer of a real Whisper.
  "automatic-speech-recognition": async ({ model, extractor, tokenizer }, file) => {
    const inputs = await extractor(samples(file));
    const ids = await model.generate({ ...inputs, max_new_tokens: job.tokens, num_beams: 1 });
    return tokenizer.batch_decode(ids, { skip_special_tokens: true })[0].trim();
  },
};

const result = { versions: { "@huggingface/transformers": told.version } };
try {
  const name = basename(job.folder);
  const use =
    job.client === "automatic-speech-recognition"
      ? {
          model: await library.AutoModelForSpeechSeq2Seq.from_pretrained(name),
          extractor: await library.AutoFeatureExtractor.from_pretrained(name),
          tokenizer: await library.AutoTokenizer.from_pretrained(name),
        }
      : await pipeline(job.client, name);
  result.outputs = [];
  for (const given of job.inputs) result.outputs.push(await uses[job.client](use, given));
} catch (error) {
  delete result.outputs;
  result.error = String(error);
}
writeFileSync(resultFile, JSON.stringify(result));
process.exit(0);
