// Writes a zip without compression, whose names are in UTF-8 (PKWARE's APPNOTE 6.3, sections 4.3 and 4.4.4).

const CRC_TABLE = Uint32Array.from({length: 256}, (_, byte) => {
  for (let bit = 0; bit < 8; bit++) byte = byte & 1 ? 0xedb88320 ^ (byte >>> 1) : byte >>> 1;
  return byte;
});
const crc32 = bytes => ~bytes.reduce((crc, byte) => CRC_TABLE[(crc ^ byte) & 255] ^ (crc >>> 8), -1) >>> 0;

const record = (size, numbers, ...rest) => {
  const view = new DataView(new ArrayBuffer(size));
  let at = 0;
  for (const [bytes, value] of numbers) {
    bytes === 4 ? view.setUint32(at, value, true) : view.setUint16(at, value, true);
    at += bytes;
  }
  return [view.buffer, ...rest];
};

/** The zip of some files, which are pairs of a path and a text, as a Blob. */
function zipOf(pairs, now = new Date()) {
  const utf8 = new TextEncoder(), files = [], directory = [];
  const time = now.getHours() << 11 | now.getMinutes() << 5 | now.getSeconds() >> 1;
  const date = now.getFullYear() - 1980 << 9 | now.getMonth() + 1 << 5 | now.getDate();
  let offset = 0, length = 0;
  for (const [path, text] of pairs) {
    const name = utf8.encode(path), content = utf8.encode(text);
    // version 2.0, names are UTF-8, stored, time, date, crc, both sizes, lengths of the name and of extra fields
    const shared = [[2, 20], [2, 0x800], [2, 0], [2, time], [2, date], [4, crc32(content)], [4, content.length],
      [4, content.length], [2, name.length], [2, 0]];
    files.push(...record(30, [[4, 0x04034b50], ...shared], name, content));
    // made by version 2.0; then no comment, disk 0, no attributes
    directory.push(...record(46, [[4, 0x02014b50], [2, 20], ...shared, [2, 0], [2, 0], [2, 0], [4, 0], [4, offset]], name));
    offset += 30 + name.length + content.length;
    length += 46 + name.length;
  }
  const counts = [[2, 0], [2, 0], [2, pairs.length], [2, pairs.length]];
  const end = record(22, [[4, 0x06054b50], ...counts, [4, length], [4, offset], [2, 0]]);
  return new Blob([...files, ...directory, ...end], {type: "application/zip"});
}
