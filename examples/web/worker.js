// worker.js - the engine on a thread of its own, so that the page stays awake while it reads.
// Messages: { id, call, argument } in; { id, result | error } and { id, done, total } out.
import { Engine, hasSimd } from "./engine.js";

let engine;

async function fetchBytes(url, progress) {
    const response = await fetch(url);
    if (!response.ok) throw new Error(`${url}: ${response.status} ${response.statusText}`);
    const total = Number(response.headers.get("Content-Length")) || 0;
    const parts = [];
    let done = 0;
    for await (const part of chunks(response.body.getReader())) {
        parts.push(part);
        done += part.length;
        progress(done, Math.max(done, total));
    }
    return new Uint8Array(await new Blob(parts).arrayBuffer());
}

async function* chunks(reader) {
    for (;;) {
        const { done, value } = await reader.read();
        if (done) return;
        yield value;
    }
}

const calls = {
    // model: a URL or a File; plain: without SIMD
    async open({ model, plain }, progress) {
        const name = plain || !hasSimd() ? "search-plain.wasm" : "search-simd.wasm";
        const wasm = await fetchBytes(name, () => {});
        const bytes = model instanceof Blob ? new Uint8Array(await model.arrayBuffer())
            : await fetchBytes(model, progress);
        engine = await Engine.create(wasm);
        return { kernels: engine.open(bytes), code: wasm.length, size: bytes.length };
    },
    async index(text, progress) {
        const start = performance.now();
        const passages = await engine.index(text, progress);
        return { passages, milliseconds: performance.now() - start };
    },
    ask(question) {
        const start = performance.now();
        const answers = engine.ask(question);
        return { answers, milliseconds: performance.now() - start };
    },
};

// One call after the other: an engine does not do two things at once.
let last = Promise.resolve();

self.onmessage = ({ data: { id, call, argument } }) => {
    last = last.then(async () => {
        try {
            const progress = (done, total) => self.postMessage({ id, done, total });
            self.postMessage({ id, result: await calls[call](argument, progress) });
        } catch (error) {
            self.postMessage({ id, error: error.message });
        }
    });
};
