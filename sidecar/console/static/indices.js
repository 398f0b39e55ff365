/** Numbers about a line of units: how far from alike they are. */

/** A Gaussian's, for the values of units drawn from one; crest for 4,096 of them. */
export const GAUSSIAN = { kurtosis: 3, hoyer: 0.202, gini: 0.414, trevesRolls: 0.363, participation: 1 / 3, crest: 3.7, ratio: 5.5 };

export function median(values) {
  return quantile(values, 0.5);
}

export function quantile(values, share) {
  const sorted = Float64Array.from(values).sort();
  if (!sorted.length) return NaN;
  const place = share * (sorted.length - 1);
  const low = Math.floor(place);
  return sorted[low] + (place - low) * ((sorted[low + 1] ?? sorted[low]) - sorted[low]);
}

/** Of values without null. kurtosis about the mean; all others of magnitudes.
 *
 * Hoyer, JMLR 5, 2004; Treves and Rolls 1991; participation ratio (sum x^2)^2 / sum x^4 over N; ratio: largest over median.
 */
export function indices(values) {
  const n = values.length;
  const mean = values.reduce((sum, x) => sum + x, 0) / n;
  let second = 0, fourth = 0, l1 = 0, l2 = 0, l4 = 0, most = 0;
  for (const x of values) {
    const d = (x - mean) ** 2, square = x * x;
    second += d; fourth += d * d; l1 += Math.abs(x); l2 += square; l4 += square * square;
    most = Math.max(most, Math.abs(x));
  }
  const magnitudes = Float64Array.from(values, Math.abs).sort();
  const weighted = magnitudes.reduce((sum, x, i) => sum + (i + 1) * x, 0);
  return {
    kurtosis: n * fourth / second ** 2,
    hoyer: (Math.sqrt(n) - l1 / Math.sqrt(l2)) / (Math.sqrt(n) - 1),
    gini: 2 * weighted / (n * l1) - (n + 1) / n,
    trevesRolls: 1 - (l1 / n) ** 2 / (l2 / n),
    participation: l2 ** 2 / l4 / n,
    crest: most / Math.sqrt(l2 / n),
    ratio: most / median(magnitudes),
  };
}

/** The columns around the largest value in which its row stays within a twentieth of its rise: [first, last]. */
export function plateau(values, peak) {
  const known = values.filter((one) => one !== null);
  const floor = Math.min(...known);
  const high = (place) => values[place] !== null && values[place] >= values[peak] - 0.05 * (values[peak] - floor);
  let [first, last] = [peak, peak];
  while (first > 0 && high(first - 1)) first -= 1;
  while (last < values.length - 1 && high(last + 1)) last += 1;
  return [first, last];
}
