// Which press does what, and what the vocabulary puts into the prompt line.

import assert from "node:assert/strict";
import { test } from "node:test";

import { KEYS, actionOf } from "../../web/keys.js";
import { readVocabulary, withWording } from "../../web/vocabulary.js";

const press = (key, more = {}) => ({
  key, ctrlKey: false, metaKey: false, altKey: false, repeat: false, ...more,
});

test("every key does its own thing", () => {
  assert.equal(new Set(KEYS.map(({ key }) => key)).size, KEYS.length);
  for (const { key, action } of KEYS) assert.equal(actionOf(press(key), "page"), action);
});

test("what is typed into a field, or meant for the browser, is left alone", () => {
  assert.equal(actionOf(press("n"), "field"), null);
  assert.equal(actionOf(press("f", { ctrlKey: true }), "page"), null);
  assert.equal(actionOf(press("r", { metaKey: true }), "page"), null);
  assert.equal(actionOf(press("n", { repeat: true }), "page"), null);
  assert.equal(actionOf(press("z"), "page"), null);
});

test("space presses the button that has the focus, other keys work there too", () => {
  assert.equal(actionOf(press(" "), "button"), null);
  assert.equal(actionOf(press("i"), "button"), "statistics");
});

test("a vocabulary is read section by section", () => {
  const tree = {
    edition: "full",
    attributes: { scene: { meadow: ["in a meadow", "over green hills"], sea: ["at sea"] }, time: {} },
  };
  assert.deepEqual(readVocabulary(tree), [
    {
      title: "scene",
      words: [
        { name: "meadow", wording: "in a meadow" },
        { name: "sea", wording: "at sea" },
      ],
    },
  ]);
});

for (const tree of [null, 7, [], {}, { attributes: ["x"] }, { attributes: { scene: { a: "b", c: [] } } }]) {
  test(`${JSON.stringify(tree)} is no vocabulary, and no failure`, () => {
    assert.deepEqual(readVocabulary(tree), []);
  });
}

test("a wording joins what is typed", () => {
  assert.equal(withWording("  ", "a cat"), "a cat");
  assert.equal(withWording("a cat", "at night"), "a cat, at night");
  assert.equal(withWording("a cat, ", "at night"), "a cat, at night");
});
