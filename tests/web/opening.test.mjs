// Which files a stream may begin with, and what is said of them; what the address asks for.

import assert from "node:assert/strict";
import { test } from "node:test";

import { aboutWords, faultOf, isClip, shortName, sizeWords, typeOf } from "../../web/opening.js";
import { readWishes } from "../../web/wishes.js";

const OPENING = { bytes: 50_000_000, width: 832, height: 480 };
const file = (name, type, size = 1000) => ({ name, type, size });

test("pictures and clips are taken, by their type or by the end of their name", () => {
  for (const [name, type, sent] of [
    ["cat.png", "image/png", "image/png"],
    ["cat.HEIC", "", "image/heic"],
    ["tide.mkv", "", "video/x-matroska"],
    ["tide.mp4", "video/mp4", "video/mp4"],
  ]) {
    assert.equal(typeOf(file(name, type)), sent);
    assert.equal(faultOf(file(name, type), OPENING), "");
  }
  assert.equal(isClip(file("tide.mov", "")), true);
  assert.equal(isClip(file("cat.png", "image/png")), false);
});

test("what is neither is refused by name", () => {
  for (const [name, type] of [
    ["song.mp3", "audio/mpeg"],
    ["logo.svg", "image/svg+xml"],
    ["README", ""],
    ["odd", "image/"],
  ]) {
    assert.match(faultOf(file(name, type), OPENING), new RegExp(`^${name} is neither`));
  }
});

test("a model without pictures, an empty file and one byte too many are refused", () => {
  assert.match(faultOf(file("cat.png", "image/png"), null), /cannot begin with a picture/);
  assert.match(faultOf(file("cat.png", "image/png", 0), OPENING), /is empty/);
  const { bytes } = OPENING;
  assert.equal(faultOf(file("cat.png", "image/png", bytes), OPENING), "");
  assert.match(faultOf(file("cat.png", "image/png", bytes + 1), OPENING), /at most 50 MB/);
});

test("what happens to the present stream is said before it happens", () => {
  const cat = file("cat.png", "image/png");
  assert.equal(
    aboutWords(cat, OPENING, "none"),
    "A new stream begins with this picture, cut to 832x480.",
  );
  assert.match(aboutWords(cat, OPENING, "own"), /This one ends\.$/);
  assert.match(aboutWords(cat, OPENING, "watched"), /You leave this one\.$/);
  assert.match(aboutWords(file("a.mp4", "video/mp4"), OPENING, "none"), /the end of this clip/);
});

test("sizes are told as people tell them", () => {
  const told = [0, 999, 1000, 999_499, 999_500, 9_940_000, 9_960_000, 50_000_000].map(sizeWords);
  assert.deepEqual(told, [
    "0 bytes", "999 bytes", "1 KB", "999 KB", "1.0 MB", "9.9 MB", "10 MB", "50 MB",
  ]);
});

test("a long name keeps its beginning and its ending", () => {
  const short = shortName(`${"a".repeat(80)}-final.png`);
  assert.ok(short.length <= 40);
  assert.match(short, /^a+…a*-final\.png$/);
});

test("the address says what is wanted, and nothing else is believed", () => {
  assert.deepEqual(readWishes(""), {
    isClean: false, prompt: "", route: null, upscaling: "auto",
  });
  assert.deepEqual(readWishes("?clean=1&prompt=a%20cat&video=websocket&upscale=off"), {
    isClean: true, prompt: "a cat", route: "websocket", upscaling: "off",
  });
  assert.deepEqual(readWishes("?clean=yes&video=pigeon&upscale=1"), readWishes(""));
});
