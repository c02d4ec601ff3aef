// Gray PNGs of masks, read and written by hand: a canvas would have four bytes for each pixel on the way, which takes ten
// times as long.

const TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  let c = n;
  for (let k = 0; k < 8; k++) c = c & 1 ? 0xedb88320 ^ (c >>> 1) : c >>> 1;
  return c >>> 0;
});

function crc(bytes) {
  let c = 0xffffffff;
  for (const byte of bytes) c = TABLE[(c ^ byte) & 255] ^ (c >>> 8);
  return (c ^ 0xffffffff) >>> 0;
}

function chunk(name, data) {
  const bytes = new Uint8Array(12 + data.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, data.length);
  bytes.set(new TextEncoder().encode(name), 4);
  bytes.set(data, 8);
  view.setUint32(8 + data.length, crc(bytes.subarray(4, 8 + data.length)));
  return bytes;
}

async function through(stream, bytes) {
  return new Uint8Array(await new Response(new Blob([bytes]).stream().pipeThrough(stream)).arrayBuffer());
}

/** Values 0 or 1, row by row, as a PNG of one bit per pixel. */
export async function grayPng(bits, width, height) {
  const stride = 1 + ((width + 7) >> 3);
  const rows = new Uint8Array(stride * height);
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++) rows[y * stride + 1 + (x >> 3)] |= bits[y * width + x] << (7 - (x & 7));
  const header = new Uint8Array(13);
  const view = new DataView(header.buffer);
  view.setUint32(0, width);
  view.setUint32(4, height);
  header[8] = 1; // bits; colour type, compression, filter and interlace stay 0
  const signature = Uint8Array.of(137, 80, 78, 71, 13, 10, 26, 10);
  const data = await through(new CompressionStream("deflate"), rows);
  return new Blob([signature, chunk("IHDR", header), chunk("IDAT", data), chunk("IEND", new Uint8Array())]);
}

/** A mask from a PNG as the server writes it, one bit per pixel and no filter: values 0 or 1, row by row. */
export async function bitsOf(bytes, width, height) {
  const view = new DataView(bytes.buffer);
  const [depth, color, , , interlace] = bytes.subarray(24);
  if (view.getUint32(16) !== width || view.getUint32(20) !== height || depth !== 1 || color !== 0 || interlace !== 0)
    throw new Error("a mask is no PNG of its size");
  const parts = [];
  for (let at = 8; at < bytes.length; at += 12 + view.getUint32(at))
    if (view.getUint32(at + 4) === IDAT) parts.push(bytes.subarray(at + 8, at + 8 + view.getUint32(at)));
  const rows = await through(new DecompressionStream("deflate"), new Blob(parts));
  const stride = 1 + ((width + 7) >> 3);
  const bits = new Uint8Array(width * height);
  for (let y = 0; y < height; y++) unpack(rows, y * stride + 1, bits, y * width, width);
  return bits;
}

const IDAT = 0x49444154;

function unpack(bytes, from, bits, to, width) {
  for (let x = 0; x < width; x += 8, from++) {
    const byte = bytes[from];
    if (byte === 0) continue;
    const last = Math.min(8, width - x);
    for (let bit = 0; bit < last; bit++) bits[to + x + bit] = (byte >> (7 - bit)) & 1;
  }
}

/** Bytes of a blob in base64. */
export async function base64(blob) {
  const bytes = new Uint8Array(await blob.arrayBuffer());
  let text = "";
  for (let i = 0; i < bytes.length; i += 0x8000) text += String.fromCharCode(...bytes.subarray(i, i + 0x8000));
  return btoa(text);
}
