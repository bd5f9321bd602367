#!/bin/sh
# Copies the libraries of the page from npm, in the versions of package-lock.json. Needs node and the network; users need neither.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp "$here/package.json" "$here/package-lock.json" "$work"
cd "$work"
npm ci --ignore-scripts --no-audit --no-fund --silent
beside='s#from *"preact"#from"./preact.js"#g; /sourceMappingURL/d' # a browser finds no module by its bare name
sed "$beside" node_modules/preact/dist/preact.mjs > "$here/preact.js"
sed "$beside" node_modules/preact/hooks/dist/hooks.mjs > "$here/hooks.js"
cp node_modules/htm/dist/htm.module.js "$here/htm.js"
cp node_modules/uplot/dist/uPlot.esm.js "$here/uplot.js"
cp node_modules/uplot/dist/uPlot.min.css "$here/uplot.css"
for name in preact htm uplot; do
    version=$(node -p "require('./node_modules/$name/package.json').version")
    printf '%s %s\n\n' "$name" "$version"
    cat "node_modules/$name/LICENSE"
    printf '\n\n'
done > "$here/LICENSES.txt"
