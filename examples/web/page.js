// page.js - the page: opens the model, hands pasted text to the worker, asks as one types.

const byId = (id) => document.getElementById(id);
const parameters = new URLSearchParams(location.search);    // ?plain: without SIMD, for comparison
const worker = new Worker("worker.js", { type: "module" });
const waiting = new Map();
let nextId = 0;

function call(name, argument, progress) {
    return new Promise((resolve, reject) => {
        waiting.set(++nextId, { resolve, reject, progress });
        worker.postMessage({ id: nextId, call: name, argument });
    });
}

worker.onmessage = ({ data }) => {
    const { resolve, reject, progress } = waiting.get(data.id);
    if (data.total) return progress && progress(data.done, data.total);
    waiting.delete(data.id);
    return data.error ? reject(new Error(data.error)) : resolve(data.result);
};

const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;

function say(text) {
    byId("state").textContent = text;
}

function showProgress(done, total) {
    byId("progress").hidden = done >= total;
    byId("progress").max = total;
    byId("progress").value = done;
}

async function open(model) {
    say("loading the model ...");
    const opened = await call("open", { model, plain: parameters.has("plain") }, showProgress);
    say(`model ${megabytes(opened.size)}, code ${(opened.code / 1e3).toFixed(0)} kB, ` +
        `kernels: ${opened.kernels}`);
    return opened;
}

async function index(text) {
    say("reading ...");
    byId("question").disabled = true;
    const read = await call("index", text, showProgress)
        .finally(() => { byId("question").disabled = false; });
    say(`${read.passages} passages in ${(read.milliseconds / 1e3).toFixed(1)} s`);
    return read;
}

function showAnswers(answers) {
    byId("answers").replaceChildren(...answers.slice(0, 8).map((answer) => {
        const item = document.createElement("li");
        const score = document.createElement("span");
        score.textContent = answer.likeness.toFixed(3);
        item.append(score, answer.text);
        return item;
    }));
}

async function ask(question) {
    const asked = await call("ask", question);
    showAnswers(asked.answers);
    byId("time").textContent = `${asked.milliseconds.toFixed(1)} ms`;
    return asked;
}

// While a question is being answered only the newest of those typed meanwhile is kept.
let typed, busy = false;

async function askTyped() {
    if (busy) return;
    busy = true;
    while (typed !== undefined) {
        const question = typed;
        typed = undefined;
        if (question.trim()) await ask(question).catch((error) => say(error.message));
        else showAnswers([]);
    }
    busy = false;
}

byId("question").addEventListener("input", (event) => {
    typed = event.target.value;
    askTyped();
});
byId("read").addEventListener("click", () =>
    index(byId("text").value).catch((error) => say(error.message)));
byId("file").addEventListener("change", (event) =>
    open(event.target.files[0]).catch((error) => say(error.message)));

// For tests: the page's own functions, and a promise that the model is there.
window.search = { index, ask, opened: open(parameters.get("model") ?? "model.awqs") };
window.search.opened.catch((error) => say(`${error.message}. A model file can be chosen above.`));
