// Loads a trace into Perfetto's own trace processor, and answers queries about it.
//
// node processor.js FOLDER TRACE < QUERIES: FOLDER has the engine of Perfetto's page, which is a
// worker of a browser; each line of QUERIES is a query in SQL. For each it prints a line of JSON: an
// array of rows, each an array of strings and numbers.
"use strict";
const fs = require("fs");
const path = require("path");
const vm = require("vm");

const [folder, trace] = process.argv.slice(2);

// Messages of protos/perfetto/trace_processor/trace_processor.proto, as far as they are needed.
const APPEND = 1, FINALIZE = 2, QUERY = 3;
const CELL = { NULL: 1, VARINT: 2, FLOAT64: 3, STRING: 4, BLOB: 5 };

function varint(number) {
    const bytes = [];
    for (let rest = BigInt(number); ; rest >>= 7n) {
        bytes.push(Number(rest & 0x7fn) | (rest > 0x7fn ? 0x80 : 0));
        if (rest <= 0x7fn) return Buffer.from(bytes);
    }
}

const number = (field, value) => Buffer.concat([varint(field << 3), varint(value)]);
const bytes = (field, value) =>
    Buffer.concat([varint((field << 3) | 2), varint(value.length), value]);

// The fields of a message as [number, value]: BigInt, or a Buffer.
function* fields(message) {
    let at = 0;
    const next = () => {
        let value = 0n;
        for (let shift = 0n; ; shift += 7n) {
            const byte = message[at++];
            value |= BigInt(byte & 0x7f) << shift;
            if (byte < 0x80) return value;
        }
    };
    while (at < message.length) {
        const tag = Number(next());
        const lengths = { 0: null, 1: () => 8, 2: () => Number(next()), 5: () => 4 };
        const length = lengths[tag & 7];
        if (length === undefined) throw new Error(`a field of type ${tag & 7}`);
        if (length === null) {
            yield [tag >> 3, next()];
            continue;
        }
        const count = length();
        yield [tag >> 3, message.subarray(at, (at += count))];
    }
}

const all = (message, wanted) => [...fields(message)].filter(([field]) => field === wanted);
const first = (message, wanted) => all(message, wanted)[0]?.[1];

function* varints(packed) {
    let value = 0n, shift = 0n;
    for (const byte of packed) {
        value |= BigInt(byte & 0x7f) << shift;
        shift += 7n;
        if (byte < 0x80) {
            yield BigInt.asIntN(64, value);
            value = shift = 0n;
        }
    }
}

// The engine, as its page sees it: what it has to say comes to `reply`. Returns how to tell it
// something.
async function engine(reply) {
    class XMLHttpRequest {
        open(_method, name) {
            this.file = path.join(folder, path.basename(name));
        }
        send() {
            this.response = new Uint8Array(fs.readFileSync(this.file)).buffer;
        }
    }
    const self = {
        console: { ...console, log() {}, warn() {} },
        TextDecoder, URL, XMLHttpRequest, crypto, performance, setTimeout,
        location: { href: "https://page/engine_bundle.js" },
        WorkerGlobalScope: class {},
        importScripts() {},
    };
    self.self = self;
    const script = fs.readFileSync(path.join(folder, "engine_bundle.js"), "utf8");
    const within = vm.createContext(self);
    vm.runInContext(script, within);
    const port = { postMessage: (bytes) => reply(Buffer.from(bytes)) };
    self.onmessage({ data: port });
    // It begins to listen some turns after that.
    for (let turn = 0; turn < 100; turn++) await new Promise((resolve) => setImmediate(resolve));
    const inner = vm.runInContext("bytes => new Uint8Array(bytes)", within);
    return (message) => port.onmessage({ data: inner(message) });
}

async function main() {
    let replies = [];
    const send = await engine((bytes) => replies.push(bytes));
    let sequence = 0;
    // Sends one request; returns the answers to it.
    const call = (method, args) => {
        replies = [];
        const message = Buffer.concat([number(1, sequence++), number(2, method), ...args]);
        send(bytes(1, message));
        const answers = replies.flatMap((stream) => all(stream, 1).map(([, answer]) => answer));
        for (const answer of answers) {
            const fatal = first(answer, 5);
            if (fatal) throw new Error(fatal.toString());
        }
        return answers;
    };
    const text = fs.readFileSync(trace);
    for (let at = 0; at < text.length; at += 1 << 20) {
        for (const answer of call(APPEND, [bytes(101, text.subarray(at, at + (1 << 20)))])) {
            const result = first(answer, 201);
            const error = result && first(result, 2);
            if (error?.length) throw new Error(error.toString());
        }
    }
    call(FINALIZE, []);
    for (const sql of fs.readFileSync(0, "utf8").split("\n").filter((line) => line.trim())) {
        const cells = [];
        let columns = 0;
        for (const answer of call(QUERY, [bytes(103, bytes(1, Buffer.from(sql)))])) {
            const result = first(answer, 203);
            if (!result) continue;
            const error = first(result, 2);
            if (error?.length) throw new Error(`${sql}: ${error}`);
            columns = Math.max(columns, all(result, 1).length);
            for (const [, batch] of all(result, 3)) cells.push(...values(batch));
        }
        const rows = [];
        while (cells.length) rows.push(cells.splice(0, columns));
        console.log(JSON.stringify(rows));
    }
}

// The cells of a batch.
function* values(batch) {
    const packed = (field) => Buffer.concat(all(batch, field).map(([, bytes]) => bytes));
    const numbers = varints(packed(2));
    const floats = packed(3);
    const texts = (first(batch, 5) ?? Buffer.alloc(0)).toString().split("\0");
    let float = 0, text = 0;
    for (const kind of varints(packed(1))) {
        switch (Number(kind)) {
            case CELL.VARINT: yield Number(numbers.next().value); break;
            case CELL.FLOAT64: yield floats.readDoubleLE(8 * float++); break;
            case CELL.STRING: yield texts[text++]; break;
            default: yield null;
        }
    }
}

main().catch((error) => {
    console.error(`${error}`);
    process.exit(1);
});
