/** What the badge says of compared pictures, and of a node that was off. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { PLAIN } from "../../js/lib/format.mjs";
import { mostChanged, ofPairs, ofReport } from "../../js/lib/verdict.mjs";

test("of compared pictures all are told of, also those that are not shown", () => {
  const of = (/** @type {(number | null)[]} */ ...all) => {
    const { word, text } = ofPairs(all, PLAIN);
    return [word, text];
  };
  assert.deepEqual(of(0, 0, 0.032, 0), ["1 of 4 changed", "most by 3.2 % on average, picture 3"]);
  assert.deepEqual(of(0, 0), ["the same", "2 pictures, to the bit"]);
  assert.deepEqual(of(0, null, 0.1), ["1 of 3 changed", "most by 10 % on average, picture 3, 1 not comparable"]);
  assert.deepEqual(of(0, null), ["1 of 2 not comparable", "1 picture the same, to the bit"]);
  assert.equal(of(null, null)[0], "not comparable");
  assert.deepEqual(of(0), ["the same", "to the bit"]);
  assert.deepEqual(of(0.5), ["changed", "colours differ by 50 % on average"]);
  assert.deepEqual([mostChanged([0, 0.1, null, 0.3, 0.3]), mostChanged([0, 0]), mostChanged([null])], [3, 0, 0]);
});

test("a node that was off says so", () => {
  const { kind, word } = ofReport("UnmemorizeLoadLoRABAF", { verdict: "off" }, PLAIN);
  assert.deepEqual([kind, word], ["off", "off"]);
});
