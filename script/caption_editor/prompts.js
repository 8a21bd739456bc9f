// Prompts as lora/dataset/captions.py builds them, for captions that are typed here. A test compares the two.
"use strict";

const CLOSING = ",.;:!?)", LEADING = /^[ ,;:]+/, TRAILING = /[ ,;:]+$/;
const UNSPACED = "\u0e00-\u109f\u1780-\u17ff\u2e80-\u30ff\u31f0-\u31ff\u3400-\u9fff\uf900-\ufaff\u{20000}-\u{3ffff}";
const LETTER = `(?![${UNSPACED}])[\\p{L}\\p{N}_]`;
const BORDER = `(?!(?<=${LETTER})${LETTER})`;
const LINE_END = /\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]/;  // as of Python's splitlines
const PLACEHOLDER = /(?<!\[)\[+tr[iİı]gger\]+/giu;

// Python's IGNORECASE takes these two for an i. The text keeps its length.
const folded = text => text.replace(/[İı]/g, "i");
const literal = text => folded(text).replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&");

function oneLine(text) {
  const valid = text.replace(/\p{Cs}/gu, "?").replaceAll("\ufeff", "");
  return valid.replace(/\p{Cc}/gu, " ").normalize("NFC").trim().split(/\s+/).join(" ");
}

/** A function that makes the prompt for a caption. */
function promptRule(trigger, rawPrefix, rawSuffix) {
  const withTrigger = text => {
    const line = oneLine(text).replace(PLACEHOLDER, () => trigger);
    return oneLine(line.replace(PLACEHOLDER, "trigger"));
  };
  const prefix = withTrigger(rawPrefix), suffix = withTrigger(rawSuffix);
  const start = prefix.replace(TRAILING, "") || prefix, end = suffix.replace(LEADING, "") || suffix;
  const starts = new RegExp(`^${literal(start)}${BORDER}`, "iu"), ends = new RegExp(`${BORDER}${literal(end)}$`, "iu");
  const word = new RegExp(`${BORDER}${literal(trigger)}${BORDER}`, "iu");
  const hasStart = line => start !== "" && starts.test(folded(line));
  const hasEnd = line => end !== "" && ends.test(folded(line));

  const withPrefix = line => !prefix || hasStart(line) ? line : line ? `${prefix} ${line}` : start;
  const withSuffix = line => {
    if (!suffix || hasEnd(line)) return line;
    return line ? line + (CLOSING.includes(suffix[0]) ? "" : " ") + suffix : end;
  };
  const withAffixes = line => withSuffix(withPrefix(line));
  const withoutAffixes = line => {
    if (hasStart(line)) line = line.slice(starts.exec(folded(line))[0].length).replace(LEADING, "");
    return hasEnd(line) ? line.slice(0, ends.exec(folded(line)).index).replace(TRAILING, "") : line;
  };
  return caption => {
    const line = withTrigger(caption), prompt = withAffixes(line);
    if (!trigger || word.test(folded(prompt))) return prompt;
    return withAffixes(`${trigger} ${withoutAffixes(line)}`.trimEnd());
  };
}

/** The different prompts of the lines of a caption that are not blank. */
function promptsOfLines(caption, prompt) {
  const lines = caption.split(LINE_END).filter(oneLine);
  return [...new Set((lines.length ? lines : [caption]).map(prompt))];
}

/** A text as an array of its parts, in which every second one is the trigger word. */
function splitAtTrigger(text, trigger) {
  if (!trigger) return [text];
  const parts = [], words = new RegExp(`${BORDER}${literal(trigger)}${BORDER}`, "giu");
  let at = 0;
  for (const {0: found, index} of folded(text).matchAll(words)) {
    parts.push(text.slice(at, index), text.slice(index, index + found.length));
    at = index + found.length;
  }
  return [...parts, text.slice(at)];
}
