// The grid for reviewing results: it loads lists and pictures from the page's server and sends it decisions.
const KEPT = { small: 1500, large: 26, full: 3, layer: 8 }; // pictures of each size that are kept in memory
const LOADS = 6; // pictures that are loaded at the same time
const SENDS = 4; // decisions that are sent at the same time
const CHUNK = 200; // results in one decision
const ASK_ABOVE = 20; // more results than these are decided about only after a question
const MOST_AGAIN = 2000; // results for which other pictures are asked at once
const AHEAD = 4; // results whose large pictures are loaded before they are shown
const POLL_SECONDS = 20;
const RETRIES = [1000, 2000, 4000];
const SETTLE = 60; // milliseconds without a far scroll after which pictures are loaded
const GAP = 8;
const CAPTION = 42; // height of a tile's text, in pixels
const STATES = [["waiting", "Waiting"], ["approved", "Approved"], ["rejected", "Rejected"], ["remaking", "In the making"], ["", "All"]];
const LAYERS = ["mask", "edit", "doubt"]; // kinds of pictures that are laid over a photo
const QUOTE_AFTER = 700; // milliseconds after a stroke until the price is looked up
const BAD_PIXEL = "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw==";

const newId = () => Array.from(crypto.getRandomValues(new Uint32Array(4)), (n) => n.toString(36)).join("-");
const pause = (ms) => new Promise((resume) => setTimeout(resume, ms));
const plural = (n, word) => `${n.toLocaleString("en")} ${word}${n === 1 ? "" : "s"}`;
const NOT_DONE = { redo: "Nothing was asked for", mend: "Your mask was not used" }; // in place of: not stored
const keyOf = (name) => Object.assign(document.createElement("span"), { className: "key", textContent: ` (${name})` });
const dollars = (usd) => `${usd.toLocaleString("en", { maximumFractionDigits: 3 })} USD`;

// Requests to the page's server.
class Server {
  constructor(data) {
    this.update(data);
  }

  update(data) {
    this.address = data.address;
    this.headers = { [data.header]: data.token };
  }

  async get(path, query, signal) {
    const answer = await fetch(`${this.address}/${path}?${new URLSearchParams(query)}`, { headers: this.headers, signal });
    if (!answer.ok) throw new Refused(answer.status, await answer.text());
    return answer;
  }

  // Sends a press; the same body again if no answer comes. The server carries out each press once.
  async post(path, body, patient = true) {
    const text = JSON.stringify(body);
    for (let attempt = 0; ; attempt++) {
      let problem;
      try {
        const answer = await fetch(`${this.address}/${path}`, {
          method: "POST",
          headers: { ...this.headers, "Content-Type": "application/json" },
          body: text,
        });
        if (answer.ok) return await answer.json();
        problem = new Refused(answer.status, await answer.text());
        if (answer.status < 500) throw problem;
      } catch (error) {
        if (error instanceof Refused && error.status < 500) throw error;
        problem = error instanceof Refused ? error : new Refused(0, "the page's server does not answer");
      }
      if (!patient || attempt >= RETRIES.length) throw problem;
      await pause(RETRIES[attempt]);
    }
  }
}

class Refused extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

// Pictures by address, the last used ones in memory; what is needed last is loaded first.
class Pictures {
  constructor(server) {
    this.server = server;
    this.kept = { small: new Map(), large: new Map(), full: new Map(), layer: new Map() };
    this.waiting = [];
    this.loading = 0;
  }

  // The address of a picture in memory; `wanted` is asked again before it is loaded.
  get(of, kind, size, wanted = () => true) {
    const name = LAYERS.includes(kind) ? "layer" : size;
    const group = this.kept[name];
    const key = [of.batch, of.image, of.number, of.etag, kind].join("\n");
    let entry = group.get(key);
    if (entry) {
      group.delete(key);
      group.set(key, entry);
      return entry.promise;
    }
    entry = {};
    entry.promise = new Promise((resolve, reject) => {
      this.waiting.push({ query: { batch: of.batch, image: of.image, number: of.number, etag: of.etag, kind, size }, wanted, resolve, reject });
    });
    entry.promise.then(
      (url) => (entry.url = url),
      () => group.delete(key),
    );
    group.set(key, entry);
    for (const [old, { url }] of group) {
      if (group.size <= KEPT[name]) break;
      group.delete(old);
      if (url) URL.revokeObjectURL(url);
    }
    this.load();
    return entry.promise;
  }

  async load() {
    while (this.loading < LOADS && this.waiting.length) {
      const next = this.waiting.pop();
      if (!next.wanted()) {
        next.reject(new Refused(0, "not needed any more"));
        continue;
      }
      this.loading += 1;
      this.fetch(next).finally(() => {
        this.loading -= 1;
        this.load();
      });
    }
  }

  async fetch(next) {
    try {
      const answer = await this.server.get("picture", next.query);
      next.resolve(URL.createObjectURL(await answer.blob()));
    } catch (error) {
      next.reject(error);
    }
  }

  close() {
    for (const group of Object.values(this.kept)) {
      for (const { url } of group.values()) if (url) URL.revokeObjectURL(url);
      group.clear();
    }
  }
}

class Review {
  constructor(root, data) {
    this.root = root.querySelector(".review");
    this.regions = data.regions;
    this.unmade = null; // changes to a mask that was closed without making the result anew
    this.server = new Server(data);
    this.pictures = new Pictures(this.server);
    this.batches = [];
    this.versions = new Map(); // batch -> version of its rows
    this.costs = new Map();
    this.places = new Map(); // place -> row
    this.ids = new Map(); // id of the result that stands there -> place
    this.ordered = []; // all rows in their order
    this.shown = []; // the rows of the present filter
    this.filter = { state: "waiting", batch: "", cause: "", model: "", prompt: "", label: "", words: "" };
    this.positions = new Map(); // one position for each filter
    this.at = 0;
    this.chosen = new Set();
    this.sticky = null; // a row that stays in the list until another one is looked at
    this.past = []; // what `z` undoes, last first
    this.sending = 0;
    this.unsent = [];
    this.reasons = new Set();
    this.tiles = new Map();
    this.spare = [];
    this.unloaded = new Set();
    this.scrolledAt = 0;
    this.opened = false;
    this.zoomed = false;
    this.layersShown = { mask: false, doubt: false };
    this.decoded = new Map();
    this.closed = false;
    this.$ = (selector) => this.root.querySelector(selector);
    this.grid = this.$(".grid");
    this.space = this.$(".space");
    this.stage = this.$(".stage");
    this.layers = this.$(".layers");
    this.listen();
    this.allow(data.may);
    this.drawStates();
    this.reload();
    this.timer = setInterval(() => this.poll(), POLL_SECONDS * 1000);
  }

  update(data) {
    this.server.update(data);
    this.allow(data.may);
  }

  // Offers what the visitor's roles allow; the server refuses the rest in any case.
  allow(may) {
    this.may = may;
    for (const part of [".reason", ".approve", ".reject", ".again", ".undo"]) this.$(`.decide ${part}`).hidden = !may.review;
    this.$(".looks .brush").hidden = !may.review;
    this.$(".publish").hidden = !may.publish;
  }

  close() {
    this.closed = true;
    clearInterval(this.timer);
    document.removeEventListener("keydown", this.onKey, true);
    document.removeEventListener("keyup", this.onKeyUp, true);
    this.resizes.disconnect();
    this.pictures.close();
  }

  // Loading

  async reload() {
    const days = this.$("[name=days]").value;
    this.days = days;
    try {
      const answer = await this.server.get("batches", { days });
      const batches = await answer.json();
      if (this.closed || this.days !== days) return;
      this.batches = batches;
      const known = new Set(batches.map((each) => each.batch));
      for (const batch of [...this.versions.keys()]) if (!known.has(batch)) this.forget(batch);
      this.fill(this.$("[name=batch]"), batches.map((each) => [each.batch, `${each.title || each.batch} (${each.images})`]), "all");
      // The waiting ones are asked for in turn, so that the first pictures come soon.
      for (const { batch } of batches) {
        await this.loadRows(batch);
        if (this.closed || this.days !== days) return;
      }
      this.loaded = true;
      this.refilter();
    } catch (error) {
      this.fail(error);
    }
  }

  async loadRows(batch) {
    const answer = await this.server.get("rows", { batch, version: this.versions.get(batch) || "" });
    if (answer.status === 204 || this.closed) return false;
    const { rows, version, cost, costPerImage } = await answer.json();
    this.versions.set(batch, version);
    this.costs.set(batch, { cost, costPerImage });
    const present = new Set(rows.map((row) => row.place));
    for (const row of this.ordered) {
      if (row.origin === batch && !present.has(row.place)) this.remove(row);
    }
    for (const row of rows) this.merge(row);
    this.reorder();
    this.refilter();
    return true;
  }

  // Takes a row from the server, unless a decision about it is on its way.
  merge(row) {
    const known = this.places.get(row.place);
    if (known && known.busy) {
      known.stale = true;
      return known;
    }
    const merged = known || { order: this.places.size };
    if (known && known.id !== row.id) this.ids.delete(known.id);
    Object.assign(merged, row);
    merged.text = [row.file, row.ref, row.labels, row.caption, row.alt, row.prompt, row.why, row.cause, row.model].join("\n").toLowerCase();
    merged.tags = row.labels.split(",").map((each) => each.trim()).filter(Boolean);
    this.places.set(row.place, merged);
    this.ids.set(row.id, row.place);
    return merged;
  }

  remove(row) {
    this.places.delete(row.place);
    this.ids.delete(row.id);
    this.chosen.delete(row.place);
  }

  forget(batch) {
    this.versions.delete(batch);
    for (const row of this.places.values()) if (row.origin === batch) this.remove(row);
    this.reorder();
  }

  // What needs a person most comes first: the least confident, or what was flagged.
  reorder() {
    const rows = [...this.places.values()];
    const batches = new Map(this.batches.map((each, index) => [each.batch, index]));
    const confident = rows.some((row) => row.confidence !== null);
    const rank = (row) => (confident ? row.confidence ?? (row.flagged ? 0 : 1) : row.flagged ? 0 : 1);
    this.ordered = rows.sort((a, b) => rank(a) - rank(b) || batches.get(a.origin) - batches.get(b.origin) || a.order - b.order);
    this.drawChoices();
  }

  async poll() {
    if (document.hidden || this.closed || !this.loaded || this.sending || this.unsent.length) return;
    try {
      for (const { batch } of this.batches.slice(0, 20)) await this.loadRows(batch);
    } catch (error) {
      this.fail(error);
    }
  }

  // Filters

  stateOf(row) {
    return row.remaking ? "remaking" : row.state;
  }

  matches(row) {
    const { state, batch, cause, model, prompt, label, words } = this.filter;
    return (
      (!batch || row.origin === batch) &&
      (!cause || row.cause === cause) &&
      (!model || row.model === model) &&
      (!prompt || row.prompt === prompt) &&
      (!label || row.tags.includes(label)) &&
      (!words || words.every((word) => row.text.includes(word))) &&
      (!state || this.stateOf(row) === state || row.place === this.sticky)
    );
  }

  filterName() {
    return JSON.stringify(this.filter);
  }

  // Draws the list anew; the row at the present position stays, or the one that takes its place.
  refilter(keep = true) {
    const before = keep ? this.shown[this.at]?.place : this.positions.get(this.filterName());
    this.shown = this.ordered.filter((row) => this.matches(row));
    const index = before ? this.shown.findIndex((row) => row.place === before) : -1;
    this.at = Math.max(0, Math.min(index >= 0 ? index : keep ? this.at : 0, this.shown.length - 1));
    this.drawStates();
    this.drawAll();
  }

  setFilter(changes) {
    this.remember();
    Object.assign(this.filter, changes);
    this.sticky = null;
    this.chosen.clear();
    this.refilter(false);
    this.grid.scrollTop = 0;
    this.scrollToHere();
  }

  remember() {
    const row = this.shown[this.at];
    if (row) this.positions.set(this.filterName(), row.place);
  }

  fill(select, options, all = "all") {
    const value = select.value;
    select.replaceChildren(...[["", all], ...options].map(([key, text]) => new Option(text.length > 70 ? `${text.slice(0, 70)} …` : text, key)));
    select.value = options.some(([key]) => key === value) ? value : "";
  }

  drawChoices() {
    const count = (values) => {
      const numbers = new Map();
      for (const value of values) if (value) numbers.set(value, (numbers.get(value) || 0) + 1);
      return [...numbers].sort((a, b) => b[1] - a[1]).slice(0, 200).map(([value, number]) => [value, `${value} (${number})`]);
    };
    this.fill(this.$("[name=cause]"), count(this.ordered.map((row) => row.cause)));
    this.fill(this.$("[name=model]"), count(this.ordered.map((row) => row.model)));
    this.fill(this.$("[name=prompt]"), count(this.ordered.map((row) => row.prompt)));
    this.fill(this.$("[name=label]"), count(this.ordered.flatMap((row) => row.tags)));
  }

  drawStates() {
    const numbers = { waiting: 0, approved: 0, rejected: 0, remaking: 0, "": 0 };
    for (const row of this.ordered) {
      if (this.filter.batch && row.origin !== this.filter.batch) continue;
      numbers[this.stateOf(row)] += 1;
      numbers[""] += 1;
    }
    this.numbers = numbers;
    const group = this.$(".states");
    if (!group.children.length) {
      for (const [state] of STATES) {
        const button = document.createElement("button");
        button.type = "button";
        button.dataset.state = state;
        button.onclick = () => this.setFilter({ state });
        group.append(button);
      }
    }
    for (const [index, [state, name]] of STATES.entries()) {
      const button = group.children[index];
      button.textContent = `${name} ${numbers[state].toLocaleString("en")}`;
      button.setAttribute("aria-pressed", String(this.filter.state === state));
      button.hidden = state === "remaking" && !numbers.remaking && this.filter.state !== "remaking";
    }
    const { batch, cause, model, prompt, label } = this.filter;
    this.$(".filters").classList.toggle("used", Boolean(batch || cause || model || prompt || label));
  }

  // Drawing

  drawAll() {
    const empty = this.$(".empty");
    empty.hidden = this.shown.length > 0;
    this.grid.hidden = this.opened || !this.shown.length;
    if (!this.shown.length) {
      empty.textContent = !this.loaded
        ? "Loading the results …"
        : !this.ordered.length
          ? "No batch of these days has results yet. Batches shows what is on its way, and what failed."
          : this.filter.state === "waiting" && !this.numbers.waiting
            ? "Nothing waits for review."
            : "No result fits these filters.";
      if (this.opened) this.closeViewer();
      this.grid.hidden = true;
    }
    this.root.classList.toggle("grid-only", !this.opened);
    this.drawGrid();
    this.drawDecide();
    if (this.opened) this.drawViewer();
    const costs = this.batch && this.costs.get(this.batch);
    this.$(".costs").textContent = costs
      ? `Cost of the batch: ${costs.cost}.${costs.costPerImage === null ? "" : ` ${dollars(costs.costPerImage)} for each approved photo.`}`
      : "Choose one batch under Filters for its ZIP and its cost.";
    this.$(".zip").disabled = !this.batch;
  }

  measure() {
    const width = this.grid.clientWidth || 1;
    const narrow = width < 500;
    this.columns = Math.max(2, Math.floor((width + GAP) / ((narrow ? 112 : 180) + GAP)));
    this.side = Math.floor((width - GAP * (this.columns - 1)) / this.columns);
    this.picture = Math.floor(this.side * 0.8);
    this.rowHeight = this.picture + CAPTION + GAP;
    const height = Math.ceil(this.shown.length / this.columns) * this.rowHeight;
    this.space.style.height = `${height}px`;
  }

  drawGrid(measured = false) {
    if (this.grid.hidden) return;
    if (!measured) this.measure();
    const top = Math.floor(this.grid.scrollTop / this.rowHeight);
    const bottom = Math.ceil((this.grid.scrollTop + this.grid.clientHeight) / this.rowHeight);
    const first = Math.max(0, (top - 2) * this.columns);
    const last = Math.min(this.shown.length, (bottom + 2) * this.columns);
    this.visible = [first, last];
    for (const [index, tile] of this.tiles) {
      if (index < first || index >= last) {
        this.tiles.delete(index);
        tile.hidden = true;
        tile.removeAttribute("id");
        tile.row = null;
        this.spare.push(tile);
      }
    }
    for (let index = first; index < last; index++) this.drawTile(index);
    const here = this.tiles.get(this.at);
    if (here) this.grid.setAttribute("aria-activedescendant", here.id);
    else this.grid.removeAttribute("aria-activedescendant");
  }

  newTile() {
    const tile = document.createElement("div");
    tile.className = "tile";
    tile.setAttribute("role", "option");
    const image = document.createElement("img");
    image.alt = "";
    image.decoding = "async";
    const [check, name, mark] = ["check", "name", "mark"].map((part) => {
      const span = document.createElement("span");
      span.className = part;
      return span;
    });
    check.setAttribute("aria-hidden", "true");
    tile.append(image, check, name, mark);
    tile.parts = { image, check, name, mark };
    tile.onclick = (event) => {
      this.go(tile.index);
      if (event.target === check || event.ctrlKey || event.metaKey) this.choose([tile.row.place]);
      else if (event.shiftKey) this.chooseTo(tile.index);
      else this.open();
    };
    this.space.append(tile);
    return tile;
  }

  drawTile(index) {
    const row = this.shown[index];
    let tile = this.tiles.get(index);
    if (!tile) {
      tile = this.spare.pop() || this.newTile();
      tile.hidden = false;
      this.tiles.set(index, tile);
    }
    const { image, check, name, mark } = tile.parts;
    tile.index = index;
    tile.id = `result-${index}`;
    const [x, y] = [(index % this.columns) * (this.side + GAP), Math.floor(index / this.columns) * this.rowHeight];
    tile.style.transform = `translate(${x}px, ${y}px)`;
    tile.style.width = `${this.side}px`;
    tile.style.height = `${this.picture + CAPTION}px`;
    const chosen = this.chosen.has(row.place);
    tile.setAttribute("aria-selected", String(chosen));
    tile.setAttribute("aria-setsize", this.shown.length);
    tile.setAttribute("aria-posinset", index + 1);
    tile.classList.toggle("here", index === this.at);
    check.textContent = chosen ? "✓" : "";
    const version = `${row.id} ${row.etag} ${this.stateOf(row)} ${row.why}`;
    if (tile.row === row && tile.version === version) return;
    const picture = tile.row === row && tile.picture === `${row.id} ${row.etag}`;
    tile.row = row;
    tile.version = version;
    tile.picture = `${row.id} ${row.etag}`;
    tile.dataset.state = row.state;
    tile.classList.toggle("flagged", row.flagged);
    name.textContent = row.file;
    mark.textContent = this.words(row);
    tile.setAttribute("aria-label", `${row.file}, ${this.words(row)}`);
    if (picture) return;
    image.src = BAD_PIXEL;
    this.unloaded.add(tile);
    this.loadSoon();
  }

  // Loads the pictures of the tiles that are still there when scrolling slows down.
  loadSoon() {
    if (this.loadTimer) return;
    this.loadTimer = setTimeout(() => {
      this.loadTimer = null;
      if (performance.now() - this.scrolledAt < SETTLE) {
        this.loadSoon();
        return;
      }
      for (const tile of this.unloaded) {
        const row = tile.row;
        const mine = () => tile.row === row && !tile.hidden;
        if (!row || tile.hidden) continue;
        this.small(row, mine).then(
          (url) => mine() && (tile.parts.image.src = url),
          () => {},
        );
      }
      this.unloaded.clear();
    }, SETTLE / 2);
  }

  // The small picture of a result, or of its photo where there is none.
  small(row, wanted) {
    return this.pictures.get(row, row.etag ? "after" : "before", "small", wanted);
  }

  words(row) {
    const again = row.earlier.length ? "made again; " : "";
    if (row.remaking) return "another picture is being made";
    if (row.state === "waiting") return again + (row.flagged ? row.cause || "flagged" : "passed every check");
    return again + row.state;
  }

  drawDecide() {
    const rows = this.rowsToDecide();
    const many = this.chosen.size;
    const row = this.shown[this.at];
    this.$(".about").textContent = many ? `${plural(many, "result")} chosen` : row ? row.file : "";
    const [approve, reject, again] = [".approve", ".reject", ".again"].map(this.$);
    const number = many ? ` ${many.toLocaleString("en")}` : "";
    approve.querySelector(".what").textContent = `Approve${number}`;
    reject.querySelector(".what").textContent = `Reject${number}`;
    approve.disabled = reject.disabled = !rows.some((each) => each.etag);
    again.disabled = !rows.some((each) => !each.remaking);
    this.$(".undo").disabled = !this.past.length;
  }

  // Moving

  go(index, focus = true) {
    if (!this.shown.length) return;
    index = Math.max(0, Math.min(index, this.shown.length - 1));
    const row = this.shown[index];
    if (this.sticky && this.sticky !== row.place) {
      this.sticky = null;
      this.at = index;
      this.refilter();
    }
    const before = this.at;
    this.at = Math.max(0, this.shown.indexOf(row));
    this.remember();
    this.scrollToHere();
    if (this.opened) this.drawViewer();
    else {
      if (this.tiles.has(before)) this.drawTile(before);
      this.drawGrid();
    }
    this.drawDecide();
    this.announce();
    if (focus) this.focusMain();
  }

  scrollToHere() {
    if (this.grid.hidden) return;
    this.measure();
    const top = Math.floor(this.at / this.columns) * this.rowHeight;
    const { scrollTop, clientHeight } = this.grid;
    if (top < scrollTop) this.grid.scrollTop = top;
    else if (top + this.rowHeight > scrollTop + clientHeight) this.grid.scrollTop = top + this.rowHeight - clientHeight;
    this.drawGrid();
  }

  announce() {
    clearTimeout(this.speaking);
    this.speaking = setTimeout(() => {
      const row = this.shown[this.at];
      if (row && this.opened) this.say(`${row.file}. ${this.at + 1} of ${this.shown.length.toLocaleString("en")}. ${this.words(row)}`);
    }, 400);
  }

  say(text) {
    this.$(".note").textContent = text;
  }

  warn(text) {
    const problem = this.$(".problem");
    const lines = problem.hidden ? [] : problem.firstElementChild.textContent.split("\n");
    if (!lines.includes(text)) lines.push(text);
    problem.firstElementChild.textContent = lines.slice(-6).join("\n");
    problem.hidden = false;
  }

  fail(error) {
    if (error instanceof Refused && error.message !== "not needed any more") this.warn(error.message);
    else if (!(error instanceof Refused)) this.warn("the page's server does not answer; what you see may be out of date");
  }

  focusMain() {
    (this.opened ? this.stage : this.grid).focus({ preventScroll: true });
  }

  choose(places) {
    const all = places.every((place) => this.chosen.has(place));
    for (const place of places) all ? this.chosen.delete(place) : this.chosen.add(place);
    this.drawGrid();
    this.drawDecide();
    this.say(`${plural(this.chosen.size, "result")} chosen`);
  }

  chooseTo(index) {
    const from = this.anchor ?? this.at;
    const [first, last] = [Math.min(from, index), Math.max(from, index)];
    for (const row of this.shown.slice(first, last + 1)) this.chosen.add(row.place);
    this.drawGrid();
    this.drawDecide();
    this.say(`${plural(this.chosen.size, "result")} chosen`);
  }

  // The batch of the filter, or the only one there is.
  get batch() {
    return this.filter.batch || (this.batches.length === 1 ? this.batches[0].batch : "");
  }

  rowsToDecide() {
    if (this.chosen.size) return [...this.chosen].map((place) => this.places.get(place)).filter(Boolean);
    const row = this.shown[this.at];
    return row ? [row] : [];
  }

  // Decisions

  async decide(state) {
    const rows = this.rowsToDecide().filter((row) => row.etag && !row.remaking);
    if (!rows.length) {
      this.say("There is no result to decide about: ask for another picture.");
      return;
    }
    const verb = state === "approved" ? "Approve" : "Reject";
    if (rows.length > ASK_ABOVE && !(await this.sure(`${verb} ${plural(rows.length, "result")}?`))) return;
    const reason = this.$(".reason").value.trim();
    const undo = { bulk: rows.length > 1, presses: [], rows: rows.map((row) => ({ row, state: row.state, why: row.why })), sent: [] };
    for (const row of rows) {
      row.state = state;
      row.why = `${state} by you${reason ? `: ${reason}` : ""}`;
    }
    this.past.push(undo);
    this.chosen.clear();
    this.remark(reason);
    this.moveOn();
    for (let first = 0; first < rows.length; first += CHUNK) {
      const part = rows.slice(first, first + CHUNK);
      const press = newId();
      undo.presses.push(press);
      undo.sent.push(this.send("decide", part, (items) => ({ press, state, reason, items }), undo));
    }
    const waiting = this.numbers.waiting;
    this.say(`${verb === "Approve" ? "Approved" : "Rejected"} ${rows.length === 1 ? rows[0].file : plural(rows.length, "result")}. ${waiting.toLocaleString("en")} waiting.`);
  }

  remark(reason) {
    const field = this.$(".reason");
    field.value = "";
    if (reason && !this.reasons.has(reason)) {
      this.reasons.add(reason);
      this.$("#reasons").append(new Option(reason));
    }
  }

  // After a decision: the next one, which has taken this place if the filter leaves out what is decided.
  moveOn() {
    const row = this.shown[this.at];
    const stays = row && this.matches(row) && row.place !== this.sticky;
    this.sticky = null;
    if (stays && this.at + 1 < this.shown.length && !this.past.at(-1).bulk) this.at += 1;
    this.refilterAt();
  }

  refilterAt(scroll = true) {
    const at = this.at;
    const before = this.shown[at];
    this.shown = this.ordered.filter((row) => this.matches(row));
    const index = before && this.matches(before) ? this.shown.indexOf(before) : at;
    this.at = Math.max(0, Math.min(index, this.shown.length - 1));
    this.drawStates();
    this.drawAll();
    if (scroll) this.scrollToHere();
    this.remember();
  }

  // Sends one press about rows, after earlier ones about the same rows, and takes what the server answers.
  send(path, rows, body, undo) {
    const before = rows.map((row) => row.busy).filter(Boolean);
    const work = async () => {
      await Promise.allSettled(before);
      await this.turn();
      try {
        const items = rows.map((row) => this.addressOf(row));
        const answer = await this.server.post(path, body(items));
        this.take(answer.rows, done, NOT_DONE[path] || "Your decision was not stored");
        return answer;
      } catch (error) {
        this.restore(rows, undo, error, NOT_DONE[path] || `${plural(rows.length, "decision")} not stored`);
        throw error;
      } finally {
        this.sending -= 1;
        this.unsent.shift()?.();
      }
    };
    const done = work();
    for (const row of rows) row.busy = done;
    const free = () => {
      for (const row of rows) if (row.busy === done) row.busy = null;
      if (rows.some((row) => row.stale)) {
        for (const row of rows) row.stale = false;
        for (const batch of new Set(rows.map((row) => row.origin))) this.versions.delete(batch);
      }
    };
    done.then(free, free);
    return done;
  }

  async turn() {
    if (this.sending >= SENDS) await new Promise((resume) => this.unsent.push(resume));
    this.sending += 1;
  }

  addressOf({ origin, batch, image, number, etag, seen }) {
    return { origin, batch, image, number, etag, seen };
  }

  // Takes the rows that the server answered to the press `done`; a later press about the same result stays on the screen.
  take(answers, done, notDone) {
    const conflicts = [];
    for (const { conflict, gone, ...answer } of answers) {
      const row = this.places.get(answer.place || this.ids.get(answer.id));
      if (!row) continue;
      if (conflict) conflicts.push(`${row.file}: ${conflict}. ${notDone}.`);
      if (gone) {
        this.remove(row);
        this.reorder();
      } else if (row.busy !== done) {
        // The later press builds on this one; after a conflict it builds on nothing and is refused as well.
        if (!conflict) row.seen = answer.seen;
      } else if (answer.place) {
        row.busy = null;
        this.merge(answer);
        row.busy = done;
      } else {
        Object.assign(row, answer);
      }
    }
    for (const text of conflicts.slice(0, 5)) this.warn(text);
    if (conflicts.length > 5) this.warn(`${conflicts.length - 5} more were decided by others or made again; their decisions were not stored.`);
    this.refilterAt(false);
  }

  restore(rows, undo, error, notDone) {
    const snapshots = new Map((undo?.rows || []).map((each) => [each.row, each]));
    for (const row of rows) {
      const snapshot = snapshots.get(row);
      if (snapshot) Object.assign(row, { state: snapshot.state, why: snapshot.why });
    }
    this.past = this.past.filter((each) => each !== undo || each.presses.length > 1);
    this.warn(`${notDone}: ${error.message}`);
    this.refilterAt();
  }

  async undo() {
    const last = this.past.pop();
    if (!last) {
      this.say("There is nothing to undo.");
      return;
    }
    this.drawDecide();
    for (const { row, state, why } of last.rows) Object.assign(row, { state, why });
    const first = last.rows[0].row;
    if (!this.matches(first)) Object.assign(this.filter, { state: this.stateOf(first) });
    this.shown = this.ordered.filter((row) => this.matches(row));
    this.at = Math.max(0, this.shown.indexOf(first));
    this.drawStates();
    this.drawAll();
    this.scrollToHere();
    this.say(last.rows.length === 1 ? `Undone: ${first.file}` : `Undone: ${plural(last.rows.length, "decision")}`);
    await Promise.allSettled(last.sent);
    const press = newId();
    const rows = last.rows.map((each) => each.row);
    this.send("undo", rows, () => ({ press, of: last.presses })).then(
      ({ kept }) => kept && this.warn(`${plural(kept, "decision")} could not be undone, because somebody decided after you.`),
      () => {
        for (const batch of new Set(rows.map((row) => row.origin))) this.versions.delete(batch);
        this.poll();
      },
    );
  }

  // Another picture

  async askForAnother() {
    const rows = this.rowsToDecide().filter((row) => !row.remaking);
    if (!rows.length) return;
    if (rows.length > MOST_AGAIN) {
      this.say(`Choose at most ${MOST_AGAIN.toLocaleString("en")} results for other pictures.`);
      return;
    }
    const dialog = this.$(".redo");
    const make = dialog.querySelector(".make");
    const prompt = dialog.querySelector(".prompt");
    const seed = dialog.querySelector(".seed");
    const press = newId();
    dialog.querySelector("h2").textContent =
      rows.length === 1 ? `Another picture of ${rows[0].image}` : `Other pictures in place of ${plural(rows.length, "result")}`;
    prompt.value = "";
    prompt.placeholder = rows[0].prompt || "as before";
    seed.value = "";
    const items = rows.map((row) => this.addressOf(row));
    let asked = 0;
    const quote = async () => {
      const mine = ++asked;
      make.disabled = true;
      make.textContent = "Looking up the price";
      dialog.querySelector(".price").textContent = "";
      try {
        const { pictures, usd, atWorst } = await this.server.post("quote", { items, prompt: prompt.value }, false);
        if (mine !== asked) return;
        make.textContent = `Make ${plural(pictures, "picture")}: ${usd === null ? "price unknown" : dollars(usd)}`;
        dialog.querySelector(".price").textContent =
          atWorst > usd ? `Up to ${dollars(atWorst)} if pictures have to be repeated. It is paid when Dagster runs the new batch.` : "It is paid when Dagster runs the new batch.";
        make.disabled = false;
      } catch (error) {
        if (mine !== asked) return;
        make.textContent = "Make";
        dialog.querySelector(".price").textContent = error.message;
      }
    };
    let typing;
    prompt.oninput = () => {
      clearTimeout(typing);
      make.disabled = true;
      typing = setTimeout(quote, 400);
    };
    make.onclick = () => {
      if (make.disabled) return;
      make.disabled = true; // a second click of a double click finds nothing to press
      dialog.close();
      this.redo(rows, { press, prompt: prompt.value.trim(), seed: seed.value === "" ? null : Number(seed.value) });
    };
    dialog.querySelector(".cancel").onclick = () => dialog.close();
    dialog.onclose = () => this.focusMain();
    dialog.showModal();
    quote();
  }

  redo(rows, wish) {
    this.chosen.clear();
    this.sticky = rows.length === 1 ? rows[0].place : null;
    for (const row of rows) row.remaking = row.remaking || "asked for";
    this.refilterAt();
    this.say(`Asked for another picture of ${rows.length === 1 ? rows[0].image : plural(rows.length, "result")}.`);
    this.send("redo", rows, (items) => ({ ...wish, items })).then(
      () => this.refilterAt(),
      () => {
        for (const row of rows) if (row.remaking === "asked for") row.remaking = "";
        this.refilterAt();
      },
    );
  }

  sure(question) {
    const dialog = this.$(".sure");
    dialog.querySelector("h2").textContent = question;
    return new Promise((resolve) => {
      dialog.querySelector(".yes").onclick = () => dialog.close("yes");
      dialog.querySelector(".no").onclick = () => dialog.close("no");
      dialog.returnValue = "";
      dialog.onclose = () => {
        this.focusMain();
        resolve(dialog.returnValue === "yes");
      };
      dialog.showModal();
      dialog.querySelector(".yes").focus();
    });
  }

  // One result

  open() {
    if (!this.shown.length) return;
    this.opened = true;
    this.$(".viewer").hidden = false;
    this.drawAll();
    this.announce();
    this.focusMain();
  }

  closeViewer() {
    this.opened = false;
    this.zoom(false);
    this.$(".viewer").hidden = true;
    this.current = null;
    this.drawAll();
    this.scrollToHere();
    if (!this.grid.hidden) this.focusMain();
  }

  // A picture that is decoded, ready to be put on the stage.
  ready(of, kind, size) {
    const key = [of.batch, of.image, of.number, of.etag, kind, size].join("\n");
    let entry = this.decoded.get(key);
    if (!entry) {
      const image = new Image();
      entry = { image, done: false };
      entry.promise = this.pictures.get(of, kind, size).then(async (url) => {
        image.src = url;
        await image.decode().catch(() => {});
        entry.done = true;
        return image;
      });
      entry.promise.catch(() => this.decoded.delete(key));
      this.decoded.set(key, entry);
      for (const old of this.decoded.keys()) {
        if (this.decoded.size <= 2 * (AHEAD + 4)) break;
        this.decoded.delete(old);
      }
    } else {
      this.decoded.delete(key);
      this.decoded.set(key, entry);
    }
    return entry;
  }

  drawViewer() {
    const row = this.shown[this.at];
    if (!row) return;
    this.$(".position").textContent = `${this.at + 1} of ${this.shown.length.toLocaleString("en")}: ${row.file}`;
    this.$(".previous").disabled = this.at === 0;
    this.$(".next").disabled = this.at + 1 >= this.shown.length;
    const version = `${row.id} ${row.etag}`;
    if (this.current !== version) {
      this.current = version;
      this.look(row, row);
      this.prefetch();
    }
    this.drawFacts(row);
  }

  // Puts a result, or an earlier picture of it, on the stage over its photo.
  look(row, of) {
    this.looked = of;
    this.layers.replaceChildren();
    const line = document.createElement("div");
    line.className = "line";
    this.put("result", row, of, of.etag ? "after" : "before");
    if (of.etag) this.put("original", row, of, "before");
    this.layers.append(line);
    for (const kind of ["mask", "doubt"]) if (this.layersShown[kind]) this.putLayer(of, kind);
    this.drawSlider();
    if (this.zoomed) this.zoom(true);
  }

  put(role, row, of, kind) {
    const mine = () => this.looked === of && this.opened;
    const show = (image) => {
      image.className = role;
      image.alt = kind === "after" ? of.alt || `Result ${row.file}` : `Photo ${row.image}`;
      const old = this.layers.querySelector(`img.${role}`);
      if (old) old.replaceWith(image);
      else this.layers.insertBefore(image, role === "result" ? this.layers.firstChild : this.layers.querySelector(".line"));
    };
    const large = this.ready(of, kind, "large");
    if (large.done) {
      show(large.image);
      this.shownAt = performance.now();
      return;
    }
    // Until the large picture is here, the small one.
    const image = new Image();
    image.src = BAD_PIXEL;
    show(image);
    this.pictures.get(of, kind, "small", mine).then(
      (url) => mine() && image.isConnected && (image.src = url),
      () => {},
    );
    large.promise.then(
      (decoded) => mine() && !this.zoomed && show(decoded),
      (error) => mine() && this.say(error.message),
    );
  }

  // Lays what the mask replaces (mask), or where the mask is doubtful (doubt), over the picture.
  putLayer(of, kind) {
    this.pictures.get(of, kind, "large").then(
      (url) => {
        if (this.looked !== of || !this.layersShown[kind]) return;
        this.layers.querySelector(`img.${kind}`)?.remove();
        const image = new Image();
        image.className = kind;
        image.alt = kind === "mask" ? "What the mask replaces, in blue" : "Where the mask is doubtful, in red";
        image.src = url;
        if (kind === "mask") this.layers.insertBefore(image, this.layers.querySelector("img.doubt"));
        else this.layers.append(image);
      },
      (error) => this.looked === of && this.say(error.message),
    );
  }

  prefetch() {
    for (const step of [-1, ...Array.from({ length: AHEAD }, (_, n) => AHEAD - n)]) {
      const row = this.shown[this.at + step];
      if (!row) continue;
      this.ready(row, "before", "large");
      if (row.etag) this.ready(row, "after", "large");
    }
  }

  drawSlider() {
    this.layers.style.setProperty("--at", `${this.$(".slider").value}%`);
    this.layers.querySelector(".line").hidden = this.$(".slider").value === "0";
  }

  hold(on) {
    this.layers.classList.toggle("original-only", on);
    this.$(".viewer .before").setAttribute("aria-pressed", String(on));
  }

  toggleLayer(kind) {
    const shown = (this.layersShown[kind] = !this.layersShown[kind]);
    this.$(`.looks .${kind}`).setAttribute("aria-pressed", String(shown));
    if (!shown) this.layers.querySelector(`img.${kind}`)?.remove();
    else if (this.looked) this.putLayer(this.looked, kind);
  }

  // Mended masks

  // The results that are made anew with the mask of a result: all that its batch has of this photo.
  rowsOfPhoto(row) {
    return this.ordered.filter((each) => each.batch === row.batch && each.image === row.image && !each.remaking);
  }

  async mend() {
    const row = this.shown[this.at];
    if (!row || !this.opened || this.mending) return;
    if (row.remaking) {
      this.say("Another picture is being made; mend its mask when it is here.");
      return;
    }
    this.mending = true;
    this.say("Loading the photo at full size");
    const load = async (kind) => {
      const image = new Image();
      image.src = await this.pictures.get(row, kind, "full");
      await image.decode();
      return image;
    };
    let photo, mask, doubt;
    try {
      [photo, mask, doubt] = await Promise.all([
        load("before"),
        load("edit").catch((error) => (error.status === 404 ? null : Promise.reject(error))),
        row.flagged ? load("doubt").catch(() => null) : null,
      ]);
    } catch (error) {
      this.fail(error);
      return;
    } finally {
      this.mending = false;
    }
    this.say("");
    if (this.shown[this.at] === row && this.opened) this.openEditor(row, photo, mask, doubt);
  }

  openEditor(row, photo, mask, doubt) {
    const dialog = this.$(".mend");
    const part = (name) => dialog.querySelector(name);
    const [make, price, undo, width] = [part(".make"), part(".price"), part(".back-a-stroke"), part(".width")];
    const rows = this.rowsOfPhoto(row);
    const items = rows.map((each) => this.addressOf(each));
    const press = newId();
    const start = mask ? "" : "No mask of this photo is stored: paint what is kept.";
    let version = 0;
    let timer;
    let ready = null; // the mask and the number of paid pictures that the button is about
    const told = (text) => (part(".told").textContent = text);
    const editor = (this.editor ??= new MaskEditor(part(".board"), {
      findRegion: (body) => this.server.post("region", body, false),
      changed: () => this.mended(),
      pended: () => this.pended(),
      told,
    }));
    const quote = async () => {
      const mine = version;
      try {
        const file = await editor.file();
        const { results, pictures, why, usd, atWorst } = await this.server.post("quote-mended", { items, mask: file }, false);
        if (mine !== version || !dialog.open) return;
        const what = results === 1 ? "Make the result anew" : `Make ${results} results anew`;
        make.textContent = `${what}: ${usd === null ? "price unknown" : dollars(usd)}`;
        price.textContent = pictures
          ? `${plural(pictures, "picture")} to paint: ${why}.${atWorst > usd ? ` Up to ${dollars(atWorst)} if pictures have to be repeated.` : ""}`
          : "No model is called: the painted picture is used again.";
        ready = { mask: file, pictures };
        make.disabled = Boolean(editor.pending);
      } catch (error) {
        if (mine !== version) return;
        make.textContent = "Make the result anew";
        price.textContent = error instanceof Refused ? error.message : "the page's server does not answer";
      }
    };
    this.mended = () => {
      version += 1;
      ready = null;
      undo.disabled = !editor.strokes.length;
      make.disabled = true;
      clearTimeout(timer);
      make.textContent = editor.touched ? "Looking up the price" : "Make the result anew";
      price.textContent = editor.touched ? "" : start;
      if (editor.touched) timer = setTimeout(quote, QUOTE_AFTER);
    };
    // A region that is shown is kept, or not, before the result is made.
    this.pended = () => {
      const { pending } = editor;
      if (!pending && [part(".accept"), part(".discard")].includes(this.root.getRootNode().activeElement)) part(".board").focus({ preventScroll: true });
      part(".accept").hidden = part(".discard").hidden = !pending;
      part(".accept").textContent = pending && !pending.keeps ? "Replace it" : "Keep it";
      part(".accept").append(keyOf("Enter"));
      undo.disabled = !pending && !editor.strokes.length;
      make.disabled = Boolean(pending) || !ready;
    };
    const brush = (keeps) => {
      editor.paintAs(keeps);
      part(".keep").setAttribute("aria-pressed", String(keeps));
      part(".drop").setAttribute("aria-pressed", String(!keeps));
    };
    const use = (tool) => {
      if (tool === "region" && !this.regions) return;
      editor.use(tool);
      const region = tool === "region";
      part(".brush").setAttribute("aria-pressed", String(!region));
      part(".region").setAttribute("aria-pressed", String(region));
      part(".board").classList.toggle("region", region);
      part(".extent").textContent = region ? "Reach" : "Size";
      width.setAttribute("aria-label", region ? "How far a region may reach, in pixels of the photo" : "Size of the brush, in pixels of the photo");
      [width.min, width.max] = region ? [8, Math.round(Math.max(...editor.size) / 2)] : [2, 400];
      width.value = editor.extent;
    };
    const bare = (on) => {
      part(".board").classList.toggle("bare", on);
      part(".bare").setAttribute("aria-pressed", String(on));
    };
    const showDoubt = (on) => {
      if (!doubt) return;
      part(".doubt").setAttribute("aria-pressed", String(on));
      if (on) editor.sheet.insertBefore(doubt, editor.ring);
      else doubt.remove();
    };
    const resize = (size) => {
      width.value = size;
      editor.extent = Number(width.value);
    };
    const step = (factor) => resize(factor > 1 ? Math.ceil(editor.extent * factor) : Math.floor(editor.extent * factor));
    dialog.querySelector("h2").textContent = `Mend the mask of ${row.image}`;
    dialog.onkeydown = (event) => {
      if (event.ctrlKey || event.altKey || event.metaKey) return;
      if (event.key === " " && event.target.matches("button")) return;
      if (event.target === part(".board") && editor.key(event)) {
        event.preventDefault();
        return;
      }
      const work = {
        k: () => brush(true),
        r: () => brush(false),
        b: () => use("brush"),
        g: () => use("region"),
        n: () => editor.nextSpot(),
        z: () => editor.undo(),
        d: () => showDoubt(part(".doubt").getAttribute("aria-pressed") !== "true"),
        0: () => editor.fit(),
        1: () => editor.zoom(1 / (window.devicePixelRatio || 1)),
        "+": () => editor.zoom(editor.scale * 1.5),
        "-": () => editor.zoom(editor.scale / 1.5),
        "[": () => step(1 / 1.3),
        "]": () => step(1.3),
        " ": () => bare(true),
      }[event.key];
      if (!work) return;
      event.preventDefault();
      work();
    };
    dialog.onkeyup = (event) => event.key === " " && !event.target.matches("button") && bare(false);
    dialog.oncancel = (event) => {
      if (!editor.pending && !editor.search && !editor.pen) return;
      event.preventDefault(); // Escape gives up the region, or lifts the brush, and only then closes
      if (editor.pen) editor.togglePen();
      else editor.discard();
    };
    part(".keep").onclick = () => brush(true);
    part(".drop").onclick = () => brush(false);
    part(".brush").onclick = () => use("brush");
    part(".region").onclick = () => use("region");
    part(".spot").onclick = () => {
      editor.nextSpot();
      part(".board").focus({ preventScroll: true });
    };
    part(".accept").onclick = () => editor.accept();
    part(".discard").onclick = () => editor.discard();
    undo.onclick = () => editor.undo();
    part(".doubt").onclick = () => showDoubt(part(".doubt").getAttribute("aria-pressed") !== "true");
    part(".bare").onclick = () => bare(!part(".board").classList.contains("bare"));
    part(".fit").onclick = () => editor.fit();
    part(".one").onclick = () => editor.zoom(1 / (window.devicePixelRatio || 1));
    part(".in").onclick = () => editor.zoom(editor.scale * 1.5);
    part(".out").onclick = () => editor.zoom(editor.scale / 1.5);
    width.oninput = () => resize(width.value);
    part(".cancel").onclick = () => dialog.close();
    make.onclick = () => {
      if (make.disabled || !ready) return;
      make.disabled = true; // a second click of a double click finds nothing to press
      const wish = { press, ...ready };
      dialog.close();
      this.makeMended(rows, wish, mine);
    };
    const mine = `${row.id}\n${row.etag}`;
    dialog.onclose = () => {
      const changes = editor.close();
      clearTimeout(timer);
      version += 1;
      this.unmade = changes && { of: mine, changes };
      this.focusMain();
    };
    dialog.showModal();
    part(".doubt").hidden = part(".spot").hidden = !doubt;
    part(".region").hidden = !this.regions;
    if (doubt) Object.assign(doubt, { className: "doubt", alt: "" });
    const earlier = this.unmade?.of === mine ? this.unmade.changes : null;
    this.unmade = null;
    editor.open(photo, mask, doubt, earlier);
    bare(false);
    editor.width = Math.min(400, Math.max(4, Math.round(Math.max(...editor.size) / 60)));
    editor.reach = Math.max(8, Math.round(Math.max(...editor.size) * REACH));
    brush(true);
    use("brush");
    showDoubt(Boolean(doubt));
    this.pended();
    this.mended();
    part(".board").focus({ preventScroll: true });
    const again = earlier ? "Your changes to this mask are still here; z takes them back. " : "";
    told(again + (mask ? editor.describe() : "No mask is stored: everything is replaced."));
  }

  makeMended(rows, wish, of) {
    for (const row of rows) row.remaking = "asked for";
    this.sticky = rows.length === 1 ? rows[0].place : null;
    this.refilterAt();
    this.say(`The mask of ${rows[0].image} is mended; ${plural(rows.length, "result")} will be made anew.`);
    this.send("mend", rows, (items) => ({ ...wish, items })).then(
      () => {
        if (this.unmade?.of === of) this.unmade = null; // until the server has taken them, they can be gone on with
        this.refilterAt();
      },
      () => {
        for (const row of rows) if (row.remaking === "asked for") row.remaking = "";
        this.refilterAt();
      },
    );
  }

  // One pixel of the file on one pixel of the screen.
  async zoom(on) {
    const was = this.zoomed;
    this.zoomed = on;
    this.$(".viewer .zoom").setAttribute("aria-pressed", String(on));
    this.stage.classList.toggle("zoomed", on);
    if (!on) {
      this.layers.style.width = this.layers.style.height = "";
      if (was && this.opened && this.looked) this.look(this.shown[this.at], this.looked);
      return;
    }
    const of = this.looked;
    try {
      const load = async (role, kind) => {
        const image = new Image();
        image.src = await this.pictures.get(of, kind, "full");
        await image.decode();
        return [role, image];
      };
      const [main, ...others] = await Promise.all([
        load("result", of.etag ? "after" : "before"),
        ...(of.etag ? [load("original", "before").catch(() => null)] : []),
      ]);
      if (this.looked !== of || !this.zoomed) return;
      const scale = window.devicePixelRatio || 1;
      this.layers.style.width = `${main[1].naturalWidth / scale}px`;
      this.layers.style.height = `${main[1].naturalHeight / scale}px`;
      for (const [role, image] of [main, ...others.filter(Boolean)]) {
        image.className = role;
        const old = this.layers.querySelector(`img.${role}`);
        image.alt = old?.alt || "";
        old?.replaceWith(image);
      }
      if (!was) {
        this.stage.scrollLeft = (this.stage.scrollWidth - this.stage.clientWidth) / 2;
        this.stage.scrollTop = (this.stage.scrollHeight - this.stage.clientHeight) / 2;
      }
      this.say(`Full size: ${main[1].naturalWidth} × ${main[1].naturalHeight} pixels`);
    } catch (error) {
      this.say(error.message);
    }
  }

  drawFacts(row) {
    const version = `${row.id} ${row.etag} ${row.state} ${row.why} ${row.remaking} ${row.earlier.length}`;
    if (this.factsOf === version) return;
    this.factsOf = version;
    const facts = this.$(".facts");
    const title = document.createElement("h2");
    title.textContent = row.remaking ? "Another picture is being made" : { waiting: "Waiting", approved: "Approved", rejected: "Rejected" }[row.state];
    const why = document.createElement("p");
    why.textContent = row.state === "waiting" && row.flagged ? row.cause || row.why : row.why;
    const list = document.createElement("dl");
    const add = (name, text) => {
      if (!text) return;
      const [term, value] = [document.createElement("dt"), document.createElement("dd")];
      term.textContent = name;
      value.textContent = text;
      list.append(term, value);
    };
    if (row.failed) add("The last attempt gave no picture", row.failed);
    add("File", row.file);
    add("Reference", row.ref);
    add("Background", row.prompt);
    if (row.confidence !== null) add("Confidence", `${Math.round(row.confidence * 100)} %`);
    add("Model", row.model);
    add("Labels", row.labels);
    add("Caption", row.caption);
    facts.replaceChildren(title, why, list);
    if (row.earlier.length) {
      const earlier = document.createElement("p");
      earlier.className = "earlier";
      for (const [index, of] of [...row.earlier, row].entries()) {
        const button = document.createElement("button");
        button.type = "button";
        button.textContent = of === row ? "This picture" : `${index + 1}. picture`;
        button.onclick = () => this.look(row, of);
        earlier.append(button);
      }
      facts.append(earlier);
    }
    if (row.etag) {
      const load = document.createElement("button");
      load.type = "button";
      load.textContent = "Download";
      load.onclick = () => this.download(row);
      facts.append(load);
    }
    clearTimeout(this.reading);
    if (row.seen) this.reading = setTimeout(() => this.drawHistory(row, version, list), 300);
  }

  async drawHistory(row, version, list) {
    try {
      const answer = await this.server.get("history", { batch: row.batch, image: row.image, number: row.number });
      const decisions = await answer.json();
      if (this.factsOf !== version) return;
      for (const each of decisions) {
        const [term, value] = [document.createElement("dt"), document.createElement("dd")];
        const word = { approved: "Approved", rejected: "Rejected", waiting: "Undone" }[each.Decision] || each.Decision;
        term.textContent = `${word} by ${each.By || "somebody"}, ${(each.At || "").replace("T", " ").slice(0, 16)} UTC${each.TakenBackAt ? " (undone)" : ""}`;
        value.textContent = each.Reason || "";
        list.append(term, value);
      }
    } catch {
      // The history is told when the result is looked at again.
    }
  }

  async download(row) {
    try {
      const answer = await this.server.get("picture", { batch: row.batch, image: row.image, number: row.number, etag: row.etag, kind: "after", size: "file" });
      const link = document.createElement("a");
      link.href = URL.createObjectURL(await answer.blob());
      link.download = row.file;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    } catch (error) {
      this.fail(error);
    }
  }

  // Deliveries

  async publish() {
    const batches = this.filter.batch ? [this.filter.batch] : this.batches.map((each) => each.batch);
    const button = this.$(".publish");
    button.disabled = true;
    try {
      for (const batch of batches) {
        const { text } = await this.server.post("publish", { batch });
        this.say(batches.length > 1 ? `${batch}: ${text}` : text);
      }
    } catch (error) {
      this.fail(error);
    }
    button.disabled = false;
  }

  async zip() {
    this.say("Preparing the ZIP");
    try {
      const { address } = await this.server.post("zip", { batch: this.batch });
      const link = document.createElement("a");
      link.href = address;
      link.download = "";
      link.click();
      this.say("The ZIP is being downloaded.");
    } catch (error) {
      this.fail(error);
    }
  }

  // Events

  listen() {
    const on = (selector, work) => (this.$(selector).onclick = (event) => {
      work(event);
      // After a mouse click the keys go to the pictures again.
      if (event.detail > 0 && !this.root.querySelector("dialog[open]")) this.focusMain();
    });
    on(".approve", () => this.decide("approved"));
    on(".reject", () => this.decide("rejected"));
    on(".again", () => this.askForAnother());
    on(".undo", () => this.undo());
    on(".back", () => this.closeViewer());
    on(".previous", () => this.go(this.at - 1));
    on(".next", () => this.go(this.at + 1));
    on(".looks .mask", () => this.toggleLayer("mask"));
    on(".looks .doubt", () => this.toggleLayer("doubt"));
    on(".looks .brush", () => this.mend());
    on(".viewer .zoom", () => this.zoom(!this.zoomed));
    on(".viewer .before", () => this.hold(!this.layers.classList.contains("original-only")));
    on(".publish", () => this.publish());
    on(".zip", () => this.zip());
    this.$(".help").onclick = () => this.$(".keys").showModal();
    this.$(".keys .close").onclick = () => this.$(".keys").close();
    this.$(".problem button").onclick = () => {
      this.$(".problem").hidden = true;
      this.$(".problem p").textContent = "";
      this.focusMain();
    };
    this.$(".clear").onclick = () => {
      for (const select of this.root.querySelectorAll(".filters select:not([name=days])")) select.value = "";
      this.$(".search").value = "";
      this.setFilter({ batch: "", cause: "", model: "", prompt: "", label: "", words: "" });
    };
    for (const select of this.root.querySelectorAll(".filters select:not([name=days])")) {
      select.onchange = () => this.setFilter({ [select.name]: select.value });
    }
    this.$("[name=days]").onchange = () => this.reload();
    this.$(".search").oninput = (event) => {
      const words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
      this.setFilter({ words: words.length ? words : "" });
    };
    const slider = this.$(".slider");
    slider.oninput = () => this.drawSlider();
    slider.onpointerup = () => this.focusMain(); // the arrows go to the pictures again
    let drawing = false;
    let top = 0;
    this.grid.onscroll = () => {
      // Slow scrolling loads pictures on the way.
      if (Math.abs(this.grid.scrollTop - top) > this.grid.clientHeight / 8) this.scrolledAt = performance.now();
      top = this.grid.scrollTop;
      if (drawing) return;
      drawing = true;
      requestAnimationFrame(() => {
        drawing = false;
        this.drawGrid(true);
      });
    };
    this.resizes = new ResizeObserver(() => this.drawGrid());
    this.resizes.observe(this.grid);
    this.listenToStage();
    this.onKey = (event) => this.key(event);
    this.onKeyUp = (event) => event.key === " " && this.opened && this.hold(false);
    document.addEventListener("keydown", this.onKey, true);
    document.addEventListener("keyup", this.onKeyUp, true);
  }

  listenToStage() {
    let start = null;
    this.stage.onpointerdown = (event) => {
      start = { x: event.clientX, y: event.clientY, left: this.stage.scrollLeft, top: this.stage.scrollTop };
      if (!this.zoomed) this.holding = setTimeout(() => this.hold(true), 150);
      else this.stage.setPointerCapture(event.pointerId);
    };
    this.stage.onpointermove = (event) => {
      if (!start || !this.zoomed) return;
      this.stage.scrollLeft = start.left - (event.clientX - start.x);
      this.stage.scrollTop = start.top - (event.clientY - start.y);
    };
    const end = (event) => {
      clearTimeout(this.holding);
      const held = this.layers.classList.contains("original-only");
      this.hold(false);
      const moved = start ? event.clientX - start.x : 0;
      if (start && !this.zoomed && !held && event.type === "pointerup" && Math.abs(moved) > 60) this.go(this.at + (moved < 0 ? 1 : -1));
      start = null;
    };
    this.stage.onpointerup = end;
    this.stage.onpointercancel = end;
    this.stage.oncontextmenu = (event) => event.pointerType !== "mouse" && event.preventDefault();
  }

  key(event) {
    const target = event.composedPath()[0];
    const inDialog = this.root.querySelector("dialog[open]");
    if (inDialog || !this.root.isConnected || event.altKey || event.metaKey) return;
    const typing = target.matches?.("input:not([type=range]), textarea, select, [contenteditable]");
    if (typing) {
      if (event.key === "Escape" || (event.key === "Enter" && target.matches("input"))) {
        if (!this.root.contains(target)) return;
        event.preventDefault();
        this.focusMain();
      }
      return;
    }
    if (event.ctrlKey && event.key !== "a") return;
    const pressing = target.matches?.("button, summary, a");
    const sliding = target.matches?.("input[type=range]");
    const down = this.opened ? 1 : this.columns || 1;
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -down, ArrowDown: down, PageUp: -down * 4, PageDown: down * 4, Home: -1e9, End: 1e9 }[event.key];
    if (step !== undefined) {
      if (sliding || (this.zoomed && this.opened && event.key.startsWith("Arrow") && ["ArrowUp", "ArrowDown"].includes(event.key))) return;
      event.preventDefault();
      if (event.shiftKey && !this.opened) {
        this.anchor ??= this.at;
        this.go(this.at + step);
        this.chooseTo(this.at);
      } else {
        this.anchor = null;
        this.go(this.at + step);
      }
      return;
    }
    const work = {
      a: () => (event.ctrlKey ? !this.opened && this.chooseTo(((this.anchor = 0), this.shown.length - 1)) : this.decide("approved")),
      x: () => this.decide("rejected"),
      z: () => this.undo(),
      n: () => this.askForAnother(),
      m: () => this.opened && this.toggleLayer("mask"),
      d: () => this.opened && this.toggleLayer("doubt"),
      b: () => this.mend(),
      1: () => this.opened && this.zoom(!this.zoomed),
      e: () => this.$(".reason").focus(),
      "/": () => this.$(".search").focus(),
      "?": () => this.$(".keys").showModal(),
      Escape: () => (this.opened ? this.closeViewer() : this.chosen.size && this.choose([...this.chosen])),
      Enter: () => !pressing && !this.opened && this.open(),
      " ": () => !pressing && !sliding && (this.opened ? this.hold(true) : this.shown[this.at] && this.choose([this.shown[this.at].place])),
    }[event.key];
    if (!work || ((event.key === "Enter" || event.key === " ") && pressing)) return;
    event.preventDefault();
    event.stopPropagation();
    if (event.repeat && "axznb".includes(event.key)) return; // a key that is held down decides once
    if (!this.may.review && "axzneb".includes(event.key) && !event.ctrlKey) {
      this.say("You may look at the results; deciding about them needs the role reviewer.");
      return;
    }
    work();
  }
}

const running = new WeakMap();

export default function ({ parentElement, data }) {
  let review = running.get(parentElement);
  if (review && !review.closed) review.update(data);
  else running.set(parentElement, (review = new Review(parentElement, data)));
  return () => review.close();
}
