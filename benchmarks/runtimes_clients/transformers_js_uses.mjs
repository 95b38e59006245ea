// What is done with a compiled folder by transformers.js, in Node and in a browser alike.

// 16-bit WAV of one channel, as numbers in [-1, 1]: what lies behind its header of 44 bytes.
export function samples(buffer) {
  const data = new DataView(buffer, 44);
  const values = new Float32Array(data.byteLength >> 1);
  for (let at = 0; at < values.length; at++) values[at] = data.getInt16(2 * at, true) / 32768;
  return values;
}

// What the library says of each input; read gives the bytes of a file as an ArrayBuffer.
export async function outputsOf(library, job, name, read) {
  const options = job.device ? { device: job.device } : {};
  const uses = {
    "feature-extraction": async (use, text) =>
      (await use(text, { pooling: "mean", normalize: true })).tolist()[0],
    "image-classification": async (use, file) => {
      const [best] = await use(file, { top_k: 1 });
      return [best.score, best.label];
    },
    "text-generation": async (use, text) => {
      const settings = { max_new_tokens: job.tokens, do_sample: false, return_full_text: false };
      return (await use(text, settings))[0].generated_text.trim();
    },
    "text2text-generation": async (use, text) =>
      (await use(text, { max_new_tokens: job.tokens, num_beams: 1 }))[0].generated_text.trim(),
    // Not by its pipeline, which wants the tokenizer of a real Whisper.
    "automatic-speech-recognition": async ({ model, extractor, tokenizer }, file) => {
      const inputs = await extractor(samples(await read(file)));
      const ids = await model.generate({ ...inputs, max_new_tokens: job.tokens, num_beams: 1 });
      return tokenizer.batch_decode(ids, { skip_special_tokens: true })[0].trim();
    },
  };
  const use =
    job.client === "automatic-speech-recognition"
      ? {
          model: await library.AutoModelForSpeechSeq2Seq.from_pretrained(name, options),
          extractor: await library.AutoFeatureExtractor.from_pretrained(name),
          tokenizer: await library.AutoTokenizer.from_pretrained(name),
        }
      : await library.pipeline(job.client, name, options);
  const outputs = [];
  for (const given of job.inputs) outputs.push(await uses[job.client](use, given));
  return outputs;
}
