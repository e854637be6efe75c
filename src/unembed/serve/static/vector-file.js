// Reads vectors from what a user pastes or drops: JSON, CSV, and .npy of float16, float32 or float64.

const LARGEST = 32; // MB

/** Says what is wrong by the key of a text and its values. */
export class VectorError extends Error {
  constructor(key, values = {}) {
    super(key);
    Object.assign(this, { key, values });
  }
}

/** Rows of numbers from a file that was chosen or dropped. */
export async function readFile(file) {
  if (file.size > LARGEST * 1e6) {
    throw new VectorError("vector.error.large", { found: Math.round(file.size / 1e6), wanted: LARGEST });
  }
  const bytes = await file.arrayBuffer();
  if (new Uint8Array(bytes, 0, Math.min(1, bytes.byteLength))[0] === 0x93) return parseNpy(bytes);
  if (file.name.toLowerCase().endsWith(".npy")) throw new VectorError("vector.error.npy");
  return parseText(new TextDecoder().decode(bytes));
}

/** Rows of numbers from pasted text. */
export function parseText(text) {
  const trimmed = text.trim();
  if (!trimmed) throw new VectorError("vector.error.empty");
  return checked(/^[[{]/.test(trimmed) ? fromJson(trimmed) : fromCsv(trimmed));
}

function fromJson(text) {
  let value;
  try {
    value = JSON.parse(text);
  } catch {
    throw new VectorError("vector.error.json");
  }
  return rowsOf(value);
}

function rowsOf(value) {
  if (Array.isArray(value)) {
    if (!value.length) throw new VectorError("vector.error.empty");
    return typeof value[0] === "object" && value[0] !== null ? value.flatMap(rowsOf) : [value];
  }
  for (const key of ["vectors", "data", "results", "embeddings", "vector", "embedding"]) {
    if (value && typeof value === "object" && key in value) return rowsOf(value[key]);
  }
  throw new VectorError("vector.error.empty");
}

function fromCsv(text) {
  const lines = text.split(/\r?\n/).filter((line) => line.trim());
  const rows = lines.map((line) => line.trim().split(/[\s,;]+/).filter((part) => part !== ""));
  const numeric = (row) => row.every((part) => !Number.isNaN(Number(part)) || /^[+-]?(nan|inf)/i.test(part));
  if (rows.length > 1 && !numeric(rows[0])) rows.shift(); // names of columns
  if (!rows.length) throw new VectorError("vector.error.empty");
  const column = rows.length > 1 && rows.every((row) => row.length === 1);
  const numbers = (column ? [rows.flat()] : rows).map((row, at) =>
    row.map((part) => {
      const value = Number(part);
      if (Number.isNaN(value) && !/^[+-]?(nan|inf)/i.test(part)) {
        throw new VectorError("vector.error.number", { row: at + 1, found: part.slice(0, 20) });
      }
      return value;
    }),
  );
  return numbers;
}

function checked(rows) {
  rows.forEach((row, at) => {
    const odd = row.find((value) => typeof value !== "number");
    if (odd !== undefined) {
      const found = JSON.stringify(odd)?.slice(0, 20) ?? "?";
      throw new VectorError("vector.error.number", { row: at + 1, found });
    }
    if (!row.every(Number.isFinite)) throw new VectorError("vector.error.finite", { row: at + 1 });
    if (row.length !== rows[0].length) {
      throw new VectorError("vector.error.ragged", { row: at + 1, found: row.length, wanted: rows[0].length });
    }
  });
  return rows;
}

const READERS = {
  "<f2": [2, (view, at) => half(view.getUint16(at, true))],
  "<f4": [4, (view, at) => view.getFloat32(at, true)],
  "<f8": [8, (view, at) => view.getFloat64(at, true)],
};

/** Rows of a .npy file (the format of numpy.lib.format, versions 1 to 3). */
export function parseNpy(buffer) {
  const view = new DataView(buffer);
  const bytes = new Uint8Array(buffer);
  const magic = String.fromCharCode(...bytes.subarray(1, 6));
  if (buffer.byteLength < 12 || bytes[0] !== 0x93 || magic !== "NUMPY") throw new VectorError("vector.error.npy");
  const wide = bytes[6] > 1;
  const start = wide ? 12 : 10;
  const end = start + (wide ? view.getUint32(8, true) : view.getUint16(8, true));
  const header = new TextDecoder().decode(bytes.subarray(start, end));
  const kind = /'descr':\s*'([^']*)'/.exec(header)?.[1];
  const shape = /'shape':\s*\(([^)]*)\)/.exec(header)?.[1];
  if (shape === undefined) throw new VectorError("vector.error.npy");
  if (!(kind in READERS)) throw new VectorError("vector.error.dtype", { found: kind ?? "object" });
  const sizes = shape.split(",").map((part) => part.trim()).filter(Boolean).map(Number);
  if (sizes.length < 1 || sizes.length > 2 || !sizes.every((size) => size > 0)) {
    throw new VectorError("vector.error.shape", { found: sizes.join(", ") });
  }
  if (sizes.length === 2 && sizes[0] > 1 && /'fortran_order':\s*True/.test(header)) {
    throw new VectorError("vector.error.order");
  }
  const [size, read] = READERS[kind];
  const [count, width] = sizes.length === 1 ? [1, sizes[0]] : sizes;
  if (end + count * width * size > buffer.byteLength) throw new VectorError("vector.error.npy");
  const at = (row, column) => read(view, end + (row * width + column) * size);
  return checked(Array.from({ length: count }, (_, row) => Array.from({ length: width }, (_, i) => at(row, i))));
}

function half(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return exponent ? sign * 2 ** (exponent - 15) * (1 + fraction / 1024) : sign * 2 ** -14 * (fraction / 1024);
}
