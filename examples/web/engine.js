// engine.js - the WebAssembly host as a class: bytes and strings in, answers out. Runs wherever there
// is WebAssembly: in the page's worker, in Node.

// A function that returns a vector constant: valid only where there is SIMD.
const SIMD_PROBE = new Uint8Array([
    0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0,
    253, 15, 253, 98, 11]);

export function hasSimd() {
    return WebAssembly.validate(SIMD_PROBE);
}

// The C library wants to print; nothing here does.
const wasi = { fd_close: () => 0, fd_seek: () => 0, fd_write: () => 0 };

export class Engine {
    // wasm: the bytes of search-simd.wasm or search-plain.wasm
    static async create(wasm) {
        const { instance } = await WebAssembly.instantiate(wasm, { wasi_snapshot_preview1: wasi });
        const engine = new Engine();
        engine.c = instance.exports;
        return engine;
    }

    // Copies bytes into the module's memory; the caller frees the pointer.
    put(bytes) {
        const pointer = this.c.web_allocate(bytes.length);
        if (pointer === 0) throw new Error("out of memory");
        new Uint8Array(this.c.memory.buffer).set(bytes, pointer);
        return pointer;
    }

    withBytes(bytes, call) {
        const pointer = this.put(bytes);
        try {
            return call(pointer, bytes.length);
        } finally {
            this.c.web_free(pointer);
        }
    }

    string(pointer, length) {
        const bytes = new Uint8Array(this.c.memory.buffer);
        const size = length ?? bytes.indexOf(0, pointer) - pointer;
        return new TextDecoder().decode(bytes.subarray(pointer, pointer + size));
    }

    check(result) {
        if (result < 0) throw new Error(this.string(this.c.web_error()));
        return result;
    }

    // The bytes of a quantized model stay in the module's memory.
    open(model) {
        this.check(this.c.web_open(this.put(model), model.length));
        return this.string(this.c.web_kernels());
    }

    // Takes a text in the place of the one before; progress(done, total) may await.
    async index(text, progress = () => {}) {
        const name = new Uint8Array(1);
        const total = this.withBytes(name, (at) => this.withBytes(new TextEncoder().encode(text),
            (bytes, size) => this.check(this.c.web_take(at, bytes, size))));
        if (total === 0) throw new Error("there is no text to search");
        for (let left = total; left > 0;) {
            left = this.check(this.c.web_embed());
            await progress(total - left, total);
        }
        return total;
    }

    // [{ passage, line, likeness, text }], best first.
    ask(question) {
        const found = this.withBytes(new TextEncoder().encode(question),
            (bytes, size) => this.check(this.c.web_ask(bytes, size)));
        return Array.from({ length: found }, (_, place) => {
            const passage = this.c.web_passage(place);
            return {
                passage,
                line: this.c.web_line(passage),
                likeness: this.c.web_likeness(place),
                text: this.string(this.c.web_text(passage), this.c.web_text_size(passage)),
            };
        });
    }
}
