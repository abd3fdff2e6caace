#!/bin/sh
# site.sh BUILD   put the page, its code and the quantized model into BUILD/web
set -eu

build=$1
here=$(dirname "$0")
model=$(sh "$here/../search/quantized.sh" "$build")
sh "$here/build.sh" "$build/web"
cp "$here/index.html" "$here/page.js" "$here/worker.js" "$here/engine.js" "$model" "$build/web"
