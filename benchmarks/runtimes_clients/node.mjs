// Runs an ONNX model by onnxruntime-node: node node.mjs JOB RESULT, see benchmarks/runtimes.py.
import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

const [jobPath, resultPath] = process.argv.slice(2);
const job = JSON.parse(readFileSync(jobPath, "utf-8"));
const ort = createRequire(join(process.cwd(), "package.json"))("onnxruntime-node");
const ARRAYS = { float32: Float32Array, int64: BigInt64Array };

function toTensor({ dtype, shape, data }) {
  const bytes = Buffer.from(data, "base64");
  const buffer = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength);
  return new ort.Tensor(dtype, new ARRAYS[dtype](buffer), shape);
}

function fromTensor({ type, dims, data }) {
  const bytes = Buffer.from(data.buffer, data.byteOffset, data.byteLength);
  return { dtype: type, shape: dims, data: bytes.toString("base64") };
}

const extra = { session: job.level ? { qdq_matmulnbits_accuracy_level: job.level } : {} };
const session = await ort.InferenceSession.create(job.model, { extra, logSeverityLevel: 3 });
const runs = [];
for (const inputs of job.runs) {
  const feeds = Object.fromEntries(Object.entries(inputs).map(([k, v]) => [k, toTensor(v)]));
  const found = await session.run(feeds);
  runs.push(Object.fromEntries(Object.entries(found).map(([k, v]) => [k, fromTensor(v)])));
}
writeFileSync(resultPath, JSON.stringify({ runs }));
