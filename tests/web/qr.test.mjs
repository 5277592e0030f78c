// The codes against those of another implementation (the Python package `qrcode` 8.2, same masks).

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";

import { qrModules } from "../../web/qr.js";

/** Text -> rows, each as a hexadecimal number of a leading 1 and the row's bits. */
const codes = JSON.parse(await readFile(new URL("qr.json", import.meta.url), "utf8"));

const rowsOf = (text) =>
  qrModules(text).map((row) => BigInt(`0b1${row.map(Number).join("")}`).toString(16));

for (const [text, rows] of Object.entries(codes)) {
  test(`a text of ${text.length} letters in ${rows.length} rows is the code that others make`, () => {
    assert.deepEqual(rowsOf(text), rows);
  });
}

test("the codes compared are of several sizes, with and without a version in them", () => {
  const sizes = Object.values(codes).map((rows) => rows.length);
  assert.ok(Math.min(...sizes) === 21 && Math.max(...sizes) === 57, sizes.join());
});

test("a text that does not fit is refused with its length", () => {
  assert.equal(qrModules("x".repeat(213)).length, 57);
  assert.throws(() => qrModules("x".repeat(214)), /214 bytes/);
  assert.throws(() => qrModules("é".repeat(107)), RangeError, "bytes count, not letters");
});
