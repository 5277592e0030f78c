/**
 * QR codes for links: byte mode, error correction level M, versions 1 to 10 (213 bytes).
 *
 * ISO/IEC 18004:2015; the sections named below are its.  Pure: text in, modules out.
 */

/** Error-correction bytes a block, and data bytes of each block, by version (table 9, level M). */
const BLOCKS = [
  { check: 10, data: [16] },
  { check: 16, data: [28] },
  { check: 26, data: [44] },
  { check: 18, data: [32, 32] },
  { check: 24, data: [43, 43] },
  { check: 16, data: [27, 27, 27, 27] },
  { check: 18, data: [31, 31, 31, 31] },
  { check: 22, data: [38, 38, 39, 39] },
  { check: 22, data: [36, 36, 36, 37, 37] },
  { check: 26, data: [43, 43, 43, 43, 44] },
];

/** Centres of the alignment patterns by version (annex E). */
const ALIGNMENT = [
  [],
  [6, 18],
  [6, 22],
  [6, 26],
  [6, 30],
  [6, 34],
  [6, 22, 38],
  [6, 24, 42],
  [6, 26, 46],
  [6, 28, 50],
];

/** Which modules each mask turns over (table 10). @type {((row: number, column: number) => boolean)[]} */
const MASKS = [
  (i, j) => (i + j) % 2 === 0,
  (i) => i % 2 === 0,
  (_, j) => j % 3 === 0,
  (i, j) => (i + j) % 3 === 0,
  (i, j) => (Math.floor(i / 2) + Math.floor(j / 3)) % 2 === 0,
  (i, j) => ((i * j) % 2) + ((i * j) % 3) === 0,
  (i, j) => (((i * j) % 2) + ((i * j) % 3)) % 2 === 0,
  (i, j) => (((i + j) % 2) + ((i * j) % 3)) % 2 === 0,
];

/** Dark is true; `null` while a module is free. @typedef {(boolean|null)[][]} Grid */

/**
 * @param {string} text
 * @returns {boolean[][]}   rows of modules, true is dark, without the quiet zone
 * @throws {RangeError}     when the text is longer than 213 bytes of UTF-8
 */
export function qrModules(text) {
  const bytes = new TextEncoder().encode(text);
  const version = BLOCKS.findIndex(({ data }, i) => bytes.length <= sum(data) - headBytes(i)) + 1;
  if (version === 0) {
    throw new RangeError(`a link of ${bytes.length} bytes does not fit a code; 213 do`);
  }
  const words = interleaved(version, padded(version, bytes));
  const candidates = MASKS.map((_, mask) => drawn(version, words, mask));
  const penalties = candidates.map(penalty);
  return candidates[penalties.indexOf(Math.min(...penalties))];
}

/** Mode and length take four bits and one byte, or two bytes from version 10 on. */
const headBytes = (/** @type {number} */ index) => (index + 1 < 10 ? 2 : 3);

const sum = (/** @type {number[]} */ numbers) => numbers.reduce((a, b) => a + b, 0);

/**
 * The data words: mode, length, bytes, terminator, padding (7.4).
 *
 * @param {number} version
 * @param {Uint8Array} bytes
 */
function padded(version, bytes) {
  const bits = [0, 1, 0, 0, ...bitsOf(bytes.length, version < 10 ? 8 : 16)];
  for (const byte of bytes) bits.push(...bitsOf(byte, 8));
  const capacity = sum(BLOCKS[version - 1].data);
  bits.push(...Array(Math.min(4, capacity * 8 - bits.length)).fill(0));
  while (bits.length % 8 !== 0) bits.push(0);
  const words = [];
  for (let i = 0; i < bits.length; i += 8) {
    words.push(bits.slice(i, i + 8).reduce((word, bit) => word * 2 + bit, 0));
  }
  for (let i = 0; words.length < capacity; i += 1) words.push(i % 2 === 0 ? 0xec : 0x11);
  return words;
}

/** @param {number} value @param {number} length @returns {number[]} highest bit first */
function bitsOf(value, length) {
  return Array.from({ length }, (_, i) => (value >>> (length - 1 - i)) & 1);
}

/**
 * The words in the order in which they are drawn: data of all blocks, then their checks (7.6).
 *
 * @param {number} version
 * @param {number[]} words
 */
function interleaved(version, words) {
  const { check, data } = BLOCKS[version - 1];
  let taken = 0;
  const blocks = data.map((length) => words.slice(taken, (taken += length)));
  const checks = blocks.map((block) => checkWords(block, check));
  const ordered = [];
  for (const group of [blocks, checks]) {
    const longest = Math.max(...group.map((each) => each.length));
    for (let i = 0; i < longest; i += 1) {
      for (const each of group) if (i < each.length) ordered.push(each[i]);
    }
  }
  return ordered;
}

/** Powers of 2 in the field of 256 elements with the polynomial 0x11d, and their logarithms. */
const EXP = new Uint8Array(512);
const LOG = new Uint8Array(256);
for (let power = 0, value = 1; power < 255; power += 1) {
  EXP[power] = EXP[power + 255] = value;
  LOG[value] = power;
  value = value & 0x80 ? ((value << 1) ^ 0x11d) & 0xff : value << 1;
}

/** @param {number} a @param {number} b */
const times = (a, b) => (a === 0 || b === 0 ? 0 : EXP[LOG[a] + LOG[b]]);

/**
 * Reed-Solomon: the remainder of the words by the generator of degree `count` (7.5).
 *
 * @param {number[]} words
 * @param {number} count
 */
function checkWords(words, count) {
  let generator = [1];
  for (let i = 0; i < count; i += 1) {
    const shifted = [...generator, 0];
    generator.forEach((factor, k) => (shifted[k + 1] ^= times(factor, EXP[i])));
    generator = shifted;
  }
  const rest = [...words, ...Array(count).fill(0)];
  words.forEach((_, i) => {
    const lead = rest[i];
    generator.forEach((factor, k) => (rest[i + k] ^= times(factor, lead)));
  });
  return rest.slice(words.length);
}

/**
 * @param {number} version
 * @param {number[]} words
 * @param {number} mask
 * @returns {boolean[][]}
 */
function drawn(version, words, mask) {
  const size = 17 + 4 * version;
  /** @type {Grid} */
  const grid = Array.from({ length: size }, () => Array(size).fill(null));
  drawPatterns(grid, version);
  drawFormat(grid, mask);
  if (version >= 7) drawVersion(grid, version);
  const isTurned = MASKS[mask];
  const bits = words.flatMap((word) => bitsOf(word, 8));
  for (const [row, column] of freeModules(grid)) {
    const isDark = bits.shift() === 1;
    grid[row][column] = isDark !== isTurned(row, column);
  }
  return /** @type {boolean[][]} */ (grid);
}

/** Finder, timing and alignment patterns (6.3). @param {Grid} grid @param {number} version */
function drawPatterns(grid, version) {
  const size = grid.length;
  for (const [top, left] of [
    [0, 0],
    [0, size - 7],
    [size - 7, 0],
  ]) {
    for (let i = -1; i < 8; i += 1) {
      for (let j = -1; j < 8; j += 1) {
        if (grid[top + i]?.[left + j] === undefined) continue;
        const ring = Math.max(Math.abs(i - 3), Math.abs(j - 3));
        grid[top + i][left + j] = ring !== 2 && ring !== 4;
      }
    }
  }
  for (const row of ALIGNMENT[version - 1]) {
    for (const column of ALIGNMENT[version - 1]) {
      if (grid[row][column] !== null) continue;
      for (let i = -2; i < 3; i += 1) {
        for (let j = -2; j < 3; j += 1) {
          grid[row + i][column + j] = Math.max(Math.abs(i), Math.abs(j)) !== 1;
        }
      }
    }
  }
  for (let i = 8; i < size - 8; i += 1) {
    grid[6][i] = grid[i][6] = i % 2 === 0;
  }
}

/** Level M and the mask, twice, with their own code (7.9). @param {Grid} grid @param {number} mask */
function drawFormat(grid, mask) {
  const size = grid.length;
  const bits = bitsOf(coded(mask, 10, 0x537) ^ 0x5412, 15).reverse();
  bits.forEach((bit, i) => {
    const isDark = bit === 1;
    const near = i < 6 ? i : i + 1;
    if (i < 8) grid[near][8] = isDark;
    else grid[8][i === 8 ? 7 : 14 - i] = isDark;
    if (i < 8) grid[8][size - 1 - i] = isDark;
    else grid[size - 15 + i][8] = isDark;
  });
  grid[size - 8][8] = true;
}

/** The version, twice, with its own code (7.10). @param {Grid} grid @param {number} version */
function drawVersion(grid, version) {
  const size = grid.length;
  bitsOf(coded(version, 12, 0x1f25), 18)
    .reverse()
    .forEach((bit, i) => {
      const [far, near] = [size - 11 + (i % 3), Math.floor(i / 3)];
      grid[far][near] = grid[near][far] = bit === 1;
    });
}

/**
 * A value followed by its remainder by a polynomial of degree `degree`: a BCH code.
 *
 * @param {number} value
 * @param {number} degree
 * @param {number} polynomial
 */
function coded(value, degree, polynomial) {
  let rest = value << degree;
  for (let bit = 31; bit >= degree; bit -= 1) {
    if (rest & (1 << bit)) rest ^= polynomial << (bit - degree);
  }
  return (value << degree) | rest;
}

/**
 * The free modules in the order of the bits: pairs of columns from the right, up and down (7.7.3).
 *
 * @param {Grid} grid
 * @returns {[number, number][]}
 */
function freeModules(grid) {
  const size = grid.length;
  /** @type {[number, number][]} */
  const free = [];
  let isUp = true;
  for (let right = size - 1; right > 0; right -= 2) {
    if (right === 6) right = 5;
    for (let i = 0; i < size; i += 1) {
      const row = isUp ? size - 1 - i : i;
      for (const column of [right, right - 1]) {
        if (grid[row][column] === null) free.push([row, column]);
      }
    }
    isUp = !isUp;
  }
  return free;
}

/**
 * How hard a code is to read: runs, blocks, patterns like a finder, imbalance (7.8.3).
 *
 * @param {boolean[][]} grid
 */
function penalty(grid) {
  const size = grid.length;
  const columns = grid.map((_, j) => grid.map((row) => row[j]));
  let points = 0;
  for (const line of [...grid, ...columns]) {
    let run = 0;
    line.forEach((isDark, i) => {
      run = i > 0 && isDark === line[i - 1] ? run + 1 : 1;
      if (run === 5) points += 3;
      if (run > 5) points += 1;
    });
    const text = line.map(Number).join("");
    for (let i = 0; i + 11 <= size; i += 1) {
      const part = text.slice(i, i + 11);
      if (part === "10111010000" || part === "00001011101") points += 40;
    }
  }
  for (let i = 1; i < size; i += 1) {
    for (let j = 1; j < size; j += 1) {
      const isDark = grid[i][j];
      if ([grid[i - 1][j], grid[i][j - 1], grid[i - 1][j - 1]].every((each) => each === isDark)) {
        points += 3;
      }
    }
  }
  const share = grid.flat().filter(Boolean).length / size ** 2;
  return points + 10 * Math.floor(Math.abs(share * 20 - 10));
}
