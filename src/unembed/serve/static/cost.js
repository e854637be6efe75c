// What damage costs: numbers that benchmarks/robustness/damage.py measured and wrote into damage.json.

import { fates } from "./align.js";

/** The two levels around a value and how far it lies between them: [[index, weight], …]. */
function around(levels, value) {
  const above = levels.findIndex((level) => level >= value);
  if (above <= 0) return [[above < 0 ? levels.length - 1 : 0, 1]];
  const share = (value - levels[above - 1]) / (levels[above] - levels[above - 1]);
  return [[above - 1, 1 - share], [above, share]];
}

/** recall@10 of search over vectors with some damage, between the measured levels by straight lines. */
export function searchLeft({ noise, bits, dimensions, recall }, wanted) {
  const at = bits.indexOf(wanted.bits);
  let sum = 0;
  for (const [i, first] of around(noise, wanted.noise)) {
    for (const [j, second] of around(dimensions, wanted.dimensions)) sum += first * second * recall[i][at][j];
  }
  return sum;
}

/** Percent of the words that a part of the model no longer names: fitted on whole vectors, and on the `change`. */
export function lost({ by }, change) {
  const percent = (fitted) => Math.round(100 * (1 - by[change][fitted].value / by.none[fitted].value));
  return { whole: percent("fitted_on_whole"), change: percent("fitted_on_change") };
}

/** Mean number of tokens that a text shares with what came back from the vectors of other texts. */
export function byChance(others, tokens) {
  const shared = others.map((other) => fates(tokens, other)).map(({ same, moved }) => same + moved);
  return shared.reduce((a, b) => a + b, 0) / shared.length;
}
