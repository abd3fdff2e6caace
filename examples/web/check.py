#!/usr/bin/env python3
"""The page in headless Chromium beside the native host: same ranking, times, a screenshot.

    check.py SEARCH SITE [--screenshot FILE] [--text FILE] [--size BYTES]

SEARCH is the native program; SITE holds the page, both wasm files and model.awqs. Every question is
answered by the native host, by the page with SIMD and by the page without. Ends with 1 if an answer
differs: a likeness more than 1e-3 away (the native host prints three digits), or another passage,
unless the two are that near to each other. 77: there is no Chromium.
"""
import argparse
import functools
import http.server
import json
import re
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import browser

HERE = Path(__file__).resolve().parent
TEXT = HERE.parent / "data" / "heldout.txt"
QUESTIONS = ["what did the children do in the snow?", "how do I mend a fence", "cooking for a party",
             "a computer program that counts", "is the road to the pass open", "letters to a friend",
             "who keeps the sheep", "arithmetic lesson", "the doctor came too late", "avalanche"]
TOP = 8
ROUNDS = 3


def serve(folder):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=folder)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def native_answers(search, model, text, questions):
    """For each question [(line, likeness)], best first."""
    with tempfile.NamedTemporaryFile(suffix=".awqi") as index:
        subprocess.run([search, "index", model, text, index.name], check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        out = subprocess.run([search, "query", model, index.name, "--top", str(TOP), *questions],
                             check=True, stdout=subprocess.PIPE).stdout.decode()
    found = re.findall(r"^  (-?[0-9.]+)  .*:([0-9]+)$", out, re.M)
    answers = [(int(line), float(likeness)) for likeness, line in found]
    return [answers[i:i + TOP] for i in range(0, len(answers), TOP)]


def take_picture(page, question, path):
    page.run("""new Promise(done => {
        const input = document.getElementById('question');
        document.getElementById('answers').replaceChildren();
        input.value = %s;
        input.dispatchEvent(new Event('input'));
        const wait = () => document.querySelector('#answers li') ? setTimeout(done, 200)
            : setTimeout(wait, 50);
        wait();
    })""" % json.dumps(question))
    page.screenshot(path)


def page_answers(url, text, questions, screenshot):
    """What the page says of its model, its answers, and milliseconds of processor time: to read a
    passage, to answer a question. Those of the whole browser, drawing included."""
    with browser.Browser(url) as page:
        opened = page.run("window.search.opened")
        page.run(f"document.getElementById('text').value = {json.dumps(text)}")
        start = page.processor_seconds()
        passages = page.run("window.search.index(document.getElementById('text').value)")["passages"]
        reading = page.processor_seconds() - start
        asked = [page.run(f"window.search.ask({json.dumps(question)})") for question in questions]
        start = page.processor_seconds()
        for _ in range(ROUNDS):
            for question in questions:
                page.run(f"window.search.ask({json.dumps(question)})")
        asking = page.processor_seconds() - start
        if screenshot:
            take_picture(page, questions[0], screenshot)
    answers = [[(a["line"], a["likeness"]) for a in one["answers"][:TOP]] for one in asked]
    return opened, answers, 1e3 * reading / passages, 1e3 * asking / (ROUNDS * len(questions))


def same(native, page):
    """Whether the rankings agree; passages as near as the printed digits may change places."""
    likeness = dict(native)
    for (line, near), (other, found) in zip(native, page):
        if abs(near - found) > 1e-3:
            return False
        if line != other and abs(likeness.get(other, native[-1][1]) - near) > 1e-3:
            return False
    return len(native) == len(page)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("search")
    parser.add_argument("site", type=Path)
    parser.add_argument("--screenshot")
    parser.add_argument("--text", default=TEXT, type=Path)
    parser.add_argument("--size", type=int, default=8000, help="bytes of the text that are read")
    options = parser.parse_args()
    if not browser.find():
        print("skipped: no chromium")
        return 77

    text = options.text.read_text(encoding="utf-8")[:options.size]
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        native = native_answers(options.search, options.site / "model.awqs", file.name, QUESTIONS)
    server = serve(str(options.site))
    wrong, times = 0, {}
    for kind in ("simd", "plain"):
        url = f"http://127.0.0.1:{server.server_address[1]}/{'?plain' if kind == 'plain' else ''}"
        opened, answers, *times[kind] = page_answers(
            url, text, QUESTIONS, options.screenshot if kind == "simd" else None)
        differing = [q for q, n, p in zip(QUESTIONS, native, answers) if not same(n, p)]
        identical = sum([x for x, _ in n] == [x for x, _ in p] for n, p in zip(native, answers))
        wrong += len(differing)
        print(f"{kind}: kernels {opened['kernels']}, code {opened['code'] / 1e3:.0f} kB, "
              f"model {opened['size'] / 1e6:.1f} MB; {times[kind][0]:.1f} ms of processor time to read a "
              f"passage, {times[kind][1]:.1f} ms to answer; {identical} of {len(QUESTIONS)} rankings "
              "identical to the native host's")
        for question in differing:
            print(f"{kind} differs from the native host: {question}")
    reading, asking = (slow / fast for fast, slow in zip(times["simd"], times["plain"]))
    print(f"SIMD is {reading:.1f} times as fast at reading, {asking:.1f} times at answering")
    server.shutdown()
    return 1 if wrong or len(native) != len(QUESTIONS) else 0


if __name__ == "__main__":
    sys.exit(main())
