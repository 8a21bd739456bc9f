// Searches all captions for a plain text, replaces it, and takes back the last replacements.

/** Captions are objects with a `text` that can be set. */
class Replacing {
  constructor(captions) {
    this.captions = captions;
    this.done = [];
  }

  /** The captions in which a text is found, and how often. */
  found(search, matchesCase) {
    const counts = this.captions.map(each => search ? each.text.match(this._pattern(search, matchesCase))?.length ?? 0 : 0);
    return {captions: this.captions.filter((_, place) => counts[place]), matches: counts.reduce((sum, each) => sum + each, 0)};
  }

  /** Replaces a text everywhere. */
  replace(search, replacement, matchesCase) {
    const pattern = this._pattern(search, matchesCase);
    const changes = this.found(search, matchesCase).captions.map(caption => {
      const before = caption.text;
      caption.text = before.replace(pattern, () => replacement);
      return {caption, before, after: caption.text};
    });
    this.done.push(changes);
  }

  /** Takes back the last replacement where nothing was edited since; returns how many captions it is in, and is not. */
  undo() {
    const changes = this.done.pop(), kept = changes.filter(each => each.caption.text !== each.after);
    for (const {caption, before} of changes.filter(each => !kept.includes(each))) caption.text = before;
    return {undone: changes.length - kept.length, kept: kept.length};
  }

  _pattern(search, matchesCase) {
    const plain = search.normalize("NFC").replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&");
    return new RegExp(plain, matchesCase ? "gu" : "giu");
  }
}
