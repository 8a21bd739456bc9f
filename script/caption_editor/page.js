// The page: captions that can be edited, what is said about them, and the zip that they are saved in.

const at = id => document.getElementById(id);
const {trigger, prefix, suffix, mostWords, saved} = document.body.dataset;
const takeTurns = "linesTakeTurns" in document.body.dataset, prompt = promptRule(trigger, prefix, suffix);
const counted = (count, thing) => `${count.toLocaleString("en")} ${thing}${count === 1 ? "" : "s"}`;
const say = text => { at("status").textContent = text; };

class Caption {
  constructor(article) {
    this.article = article;
    this.area = article.querySelector("textarea");
    this.file = article.dataset.file;
    this.isByModel = "byModel" in article.dataset;
    this.kept = this.text;
  }

  get text() { return this.area.value.normalize("NFC").trim(); }
  set text(text) {
    this.area.value = text.trim();
    this.show();
  }
  get isChanged() { return this.text !== this.area.defaultValue.trim(); }
  get isUnsaved() { return this.text !== this.kept; }

  show() {
    const line = oneLine(this.text), prompts = takeTurns ? promptsOfLines(this.text, prompt) : [prompt(line)];
    const part = name => this.article.querySelector(`.${name}`);
    this.words = line ? line.split(" ").length : 0;
    part("words").textContent = counted(this.words, "word");
    part("flag").textContent = !this.words ? "empty" : this.words > mostWords ? `over ${mostWords} words` : "";
    part("changed").textContent = this.isChanged ? "changed" : "";
    this.article.classList.toggle("is-changed", this.isChanged);
    part("prompt").replaceChildren(...marked(prompts.join(" | ") || "(no prompt)"));
    part("unless-described")?.toggleAttribute("hidden", this.words > 0);
  }
}

function marked(text) {
  return splitAtTrigger(text, trigger).map((part, place) => {
    if (place % 2 === 0) return part;
    const mark = document.createElement("mark");
    mark.textContent = part;
    return mark;
  });
}

const captions = [...document.querySelectorAll("article")].map(article => new Caption(article));
const replacing = new Replacing(captions);
const found = () => replacing.found(at("search").value, at("matches-case").checked);
const KINDS = {
  all: () => captions,
  empty: () => captions.filter(each => !each.words),
  model: () => captions.filter(each => each.isByModel),
  changed: () => captions.filter(each => each.isChanged),
  long: () => captions.filter(each => each.words > mostWords),
  found: () => found().captions,
};

function showTotals() {
  const words = captions.reduce((sum, each) => sum + each.words, 0), unsaved = captions.filter(each => each.isUnsaved);
  at("total").textContent = `${counted(words, "word")} in ${counted(captions.length, "caption")}`;
  at("unsaved").textContent = unsaved.length ? `${unsaved.length} not saved` : "";
  for (const radio of document.querySelectorAll("[name=shown]")) {
    radio.nextElementSibling.querySelector("b").textContent = KINDS[radio.value]().length;
  }
  const {captions: matching, matches} = found();
  at("replace").disabled = !matches;
  at("undo").disabled = !replacing.done.length;
  const places = `${counted(matches, "place")} in ${counted(matching.length, "caption")}`;
  at("found").textContent = at("search").value ? places : "";
}

const chosen = () => document.querySelector("[name=shown]:checked").value;

/** Shows the captions of the chosen kind; those that are edited stay until another kind is chosen. */
function filter() {
  const shown = new Set(KINDS[chosen()]());
  for (const each of captions) each.article.hidden = !shown.has(each);
  at("none").hidden = shown.size > 0;
}

function save() {
  const files = captions.map(each => [each.file, each.text ? `${each.text}\n` : ""]);
  for (const each of captions) each.kept = each.text;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(zipOf(files));
  link.download = saved;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  say(`${saved} is where your browser puts downloads.`);
  showTotals();
}

function replaceAll() {
  const {captions: matching, matches} = found();
  replacing.replace(at("search").value, at("replacement").value, at("matches-case").checked);
  say(`Replaced ${counted(matches, "time")} in ${counted(matching.length, "caption")}.`);
  showTotals();
}

function undo() {
  const {undone, kept} = replacing.undo();
  say(`Undone in ${counted(undone, "caption")}${kept ? `; ${kept} edited since, so left` : ""}.`);
  showTotals();
}

for (const each of captions) {
  each.area.addEventListener("input", () => {
    each.show();
    showTotals();
  });
}
for (const id of ["search", "matches-case"]) {
  at(id).addEventListener("input", () => {
    showTotals();
    if (chosen() === "found") filter();
  });
}
document.querySelector("fieldset").addEventListener("change", filter);
at("save").addEventListener("click", save);
at("replace").addEventListener("click", replaceAll);
at("undo").addEventListener("click", undo);
addEventListener("keydown", event => {
  if ((event.ctrlKey || event.metaKey) && !event.altKey && event.key.toLowerCase() === "s") {
    event.preventDefault();
    save();
  }
});
addEventListener("beforeunload", event => {
  if (captions.some(each => each.isUnsaved)) event.preventDefault();
});
for (const each of captions) each.show();
showTotals();
