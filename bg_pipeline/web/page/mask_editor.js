// The editor of a photo's mask, at the photo's size: brush, regions found by a click, undo, zoom, mouse, touch and keys.
const CANVAS_PIXELS = 16_700_000; // of a mask that is mended; phones have no larger canvas
const UNDO_STROKES = 400; // strokes that can be taken back
const UNDO_PIXELS = 8_000_000; // of the regions among them
const PART = 1024; // longer side of the part of the photo in which a region is looked for, in pixels
const SMALLEST_PART = 128; // smaller parts are enlarged: the search needs some pixels
const REACH = 0.25; // how far a region may reach at first, as a share of the photo's longer side
const SPOTS = 160; // longer side of the small copy in which doubtful places are told apart
const BLUE = "rgb(30, 90, 230)"; // what is replaced
const TAP = 8; // a finger that moves less, in pixels of the screen, taps
const SPEAK_AFTER = 250; // milliseconds after the last key until the cursor's place is told
const FIND_AFTER = 300; // milliseconds after a change of the reach until a region is looked for again

const percent = (share) => `${Math.round(share * 100)} %`;

async function base64(canvas, type, quality) {
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, type, quality));
  if (!blob) throw new Error("the browser has no memory for the picture");
  const reader = new FileReader();
  return await new Promise((resolve, reject) => {
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}

function newCanvas(width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  return canvas;
}

// A canvas in which all that is visible has one colour.
function tint(canvas, colour) {
  const context = canvas.getContext("2d");
  context.globalCompositeOperation = "source-in";
  context.fillStyle = colour;
  context.fillRect(0, 0, canvas.width, canvas.height);
  return canvas;
}

// Blue is replaced. A brush, or a click on a region, keeps or replaces. `findRegion` asks the server for the region of a
// click; `changed` is called when the mask is another one, `pended` when a found region is shown or not shown any more,
// `told` with sentences for the person.
class MaskEditor {
  constructor(board, { findRegion, changed, pended, told }) {
    Object.assign(this, { board, findRegion, changed, pended, told });
    this.sheet = board.querySelector(".sheet");
    this.keeps = true;
    this.tool = "brush";
    this.width = 40;
    this.reach = 400;
    this.strokes = [];
    this.pointers = new Map();
    this.ring = document.createElement("div");
    this.ring.className = "ring";
    this.listen();
  }

  // Shows a photo with its mask, or with everything replaced where there is none; with what `close` returned, goes on.
  open(photo, mask, doubt, earlier) {
    const pixels = photo.naturalWidth * photo.naturalHeight;
    const scale = Math.min(1, Math.sqrt(CANVAS_PIXELS / pixels));
    this.scale = 0;
    this.photo = photo;
    this.size = [Math.round(photo.naturalWidth * scale), Math.round(photo.naturalHeight * scale)];
    this.canvas = newCanvas(...this.size);
    this.before = newCanvas(...this.size); // the mask before the strokes that can be undone
    const context = this.before.getContext("2d");
    if (earlier?.before || mask) context.drawImage(earlier?.before || mask, 0, 0, ...this.size);
    else {
      context.fillStyle = BLUE;
      context.fillRect(0, 0, ...this.size);
    }
    this.strokes = earlier?.strokes || [];
    this.merged = Boolean(earlier?.before);
    this.drawing = this.pending = null;
    this.redraw();
    this.cursor = this.size.map((side) => Math.round(side / 2));
    this.pen = false;
    this.spots = doubt ? this.findSpots(doubt) : [];
    this.spot = -1;
    photo.alt = "";
    this.ring.hidden = true;
    this.sheet.replaceChildren(photo, this.canvas, this.ring);
    this.fit();
  }

  // Returns what was changed, so that it can be gone on with; null if nothing was.
  close() {
    if (!this.canvas) return null;
    this.endPen();
    this.search = null;
    clearTimeout(this.speaking);
    clearTimeout(this.finding);
    this.sheet.replaceChildren();
    const { strokes, merged, before } = this;
    this.canvas.width = this.canvas.height = 0; // gives the memory back at once
    if (!merged) before.width = before.height = 0;
    this.canvas = this.before = this.photo = this.pending = this.drawing = null;
    this.strokes = [];
    this.pointers.clear();
    return strokes.length || merged ? { strokes, before: merged ? before : null } : null;
  }

  // Whether the mask is another one than the stored one.
  get touched() {
    return this.strokes.length > 0 || this.merged;
  }

  // Zoom

  fit() {
    const [width, height] = this.size;
    this.zoom(Math.min(this.board.clientWidth / width, this.board.clientHeight / height));
  }

  // Shows a pixel of the photo on `scale` pixels of the screen; the point (x, y) of the board stays where it is.
  zoom(scale, x = this.board.clientWidth / 2, y = this.board.clientHeight / 2) {
    const [width, height] = this.size;
    const least = Math.min(this.board.clientWidth / width, this.board.clientHeight / height, 1) / 2;
    const before = this.scale || scale;
    this.scale = Math.max(least, Math.min(scale, 16));
    const [left, top] = [this.board.scrollLeft + x, this.board.scrollTop + y];
    this.sheet.style.width = `${width * this.scale}px`;
    this.sheet.style.height = `${height * this.scale}px`;
    this.board.scrollLeft = (left * this.scale) / before - x;
    this.board.scrollTop = (top * this.scale) / before - y;
  }

  // Tools

  use(tool) {
    this.discard();
    this.tool = tool;
    this.pen = false;
    this.drawRing();
  }

  paintAs(keeps) {
    if (keeps !== this.keeps) this.discard();
    this.keeps = keeps;
    if (this.pen) {
      this.end();
      this.begin(this.cursor);
    }
    this.drawRing();
  }

  // The brush's width, or how far a region may reach, in pixels of the photo.
  get extent() {
    return this.tool === "brush" ? this.width : this.reach;
  }

  set extent(size) {
    if (this.tool === "brush") this.width = size;
    else {
      this.reach = size;
      clearTimeout(this.finding);
      const at = this.pending?.at || this.search?.at || this.missed;
      if (at) this.finding = setTimeout(() => this.find(at), FIND_AFTER);
    }
    this.drawRing();
  }

  // Strokes

  at(event) {
    const box = this.sheet.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * this.size[0], ((event.clientY - box.top) / box.height) * this.size[1]];
  }

  begin(point) {
    this.drawing = { keeps: this.keeps, width: this.width, points: [point] };
    this.paint(this.canvas, this.drawing, 0);
  }

  add(point) {
    this.drawing.points.push(point);
    this.paint(this.canvas, this.drawing, this.drawing.points.length - 2);
  }

  end() {
    if (!this.drawing) return;
    const stroke = this.drawing;
    this.drawing = null;
    this.push(stroke);
  }

  push(stroke) {
    this.strokes.push(stroke);
    const pixels = () => this.strokes.reduce((sum, { region }) => sum + (region ? region.width * region.height : 0), 0);
    while (this.strokes.length > UNDO_STROKES || (this.strokes.length > 1 && pixels() > UNDO_PIXELS)) {
      this.paint(this.before, this.strokes.shift(), 0);
      this.merged = true;
    }
    this.changed();
  }

  // Gives up the stroke that is being drawn, as when a second finger comes down.
  giveUp() {
    if (!this.drawing) return;
    this.drawing = null;
    this.redraw();
  }

  undo() {
    if (this.pending || this.search) {
      this.discard();
      return;
    }
    this.pen = false;
    this.giveUp();
    if (!this.strokes.length) return;
    this.strokes.pop();
    this.redraw();
    this.changed();
    this.told("Undone.");
  }

  redraw() {
    const context = this.canvas.getContext("2d");
    context.globalCompositeOperation = "copy";
    context.drawImage(this.before, 0, 0);
    for (const stroke of this.strokes) this.paint(this.canvas, stroke, 0);
  }

  paint(canvas, { keeps, width, points, region, box }, from) {
    const context = canvas.getContext("2d");
    context.globalCompositeOperation = keeps ? "destination-out" : "source-over";
    if (region) {
      context.drawImage(region, ...box);
      return;
    }
    context.strokeStyle = BLUE;
    context.lineWidth = width;
    context.lineCap = context.lineJoin = "round";
    context.beginPath();
    context.moveTo(...points[from]);
    if (from === points.length - 1) context.lineTo(points[from][0] + 0.01, points[from][1]);
    for (const point of points.slice(from + 1)) context.lineTo(...point);
    context.stroke();
  }

  // Regions

  // The share of a point that is replaced, 0 to 1.
  replacedAt([x, y]) {
    const at = [Math.min(this.size[0] - 1, Math.max(0, Math.floor(x))), Math.min(this.size[1] - 1, Math.max(0, Math.floor(y)))];
    return this.canvas.getContext("2d").getImageData(...at, 1, 1).data[3] / 255;
  }

  // Looks for the region of a click and shows it; it is a part of the mask only after `accept`.
  async find(at) {
    clearTimeout(this.finding);
    this.discard(true);
    this.missed = null;
    if (this.replacedAt(at) < 0.5 === this.keeps) {
      this.told(this.keeps ? "This place is kept already. To take it away, choose Replace." : "This place is replaced already. To bring it back, choose Keep.");
      return;
    }
    const { keeps, reach } = this;
    const search = (this.search = { at });
    this.told("Looking for the region");
    try {
      const box = this.around(at, reach);
      const [left, top, width, height] = box;
      const scale = Math.min(PART, Math.max(SMALLEST_PART, width, height)) / Math.max(width, height);
      const size = [Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale))];
      const [part, mask] = [this.partOfPhoto(box, size), this.partOfMask(box, size)];
      const body = {
        part: await base64(part, "image/jpeg", 0.92),
        mask: await base64(mask, "image/png"),
        x: Math.max(0, Math.min((at[0] - left) * scale, size[0] - 1)),
        y: Math.max(0, Math.min((at[1] - top) * scale, size[1] - 1)),
        reach: Math.min(PART, reach * scale),
        keep: keeps,
      };
      const { region } = await this.findRegion(body);
      if (this.search !== search) return;
      const picture = region && (await this.readRegion(region, size));
      if (this.search !== search) return;
      this.search = null;
      if (!picture) {
        this.missed = at;
        this.told("No region stands out here. Try another reach or another place, or paint with the brush.");
        return;
      }
      this.show({ keeps, at, box, region: tint(picture, BLUE) });
    } catch (error) {
      if (this.search !== search) return;
      this.search = null;
      this.told(error.message);
    }
  }

  // The part of the photo around a point, [left, top, width, height] in whole pixels.
  around([x, y], reach) {
    const [left, top] = [Math.max(0, Math.floor(x - reach)), Math.max(0, Math.floor(y - reach))];
    const [right, bottom] = [Math.min(this.size[0], Math.ceil(x + reach)), Math.min(this.size[1], Math.ceil(y + reach))];
    return [left, top, Math.max(1, right - left), Math.max(1, bottom - top)];
  }

  partOfPhoto([left, top, width, height], size) {
    const canvas = newCanvas(...size);
    const context = canvas.getContext("2d");
    const scale = this.photo.naturalWidth / this.size[0];
    context.fillStyle = "#fff"; // behind translucent photos
    context.fillRect(0, 0, ...size);
    context.imageSmoothingQuality = "high";
    context.drawImage(this.photo, left * scale, top * scale, width * scale, height * scale, 0, 0, ...size);
    return canvas;
  }

  // A part of the mask as a picture: black is kept, white is replaced.
  partOfMask(box, size) {
    const canvas = newCanvas(...size);
    const context = canvas.getContext("2d");
    context.drawImage(this.canvas, ...box, 0, 0, ...size);
    tint(canvas, "#fff");
    context.fillStyle = "#000";
    context.globalCompositeOperation = "destination-over";
    context.fillRect(0, 0, ...size);
    return canvas;
  }

  // The region in a grey PNG as a canvas in which it is opaque; null if it has another size.
  async readRegion(png, [width, height]) {
    const image = new Image();
    image.src = `data:image/png;base64,${png}`;
    await image.decode();
    if (image.naturalWidth !== width || image.naturalHeight !== height) return null;
    const canvas = newCanvas(width, height);
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    const pixels = context.getImageData(0, 0, width, height);
    for (let at = 0; at < pixels.data.length; at += 4) pixels.data[at + 3] = pixels.data[at];
    context.putImageData(pixels, 0, 0);
    return canvas;
  }

  show(pending) {
    this.pending = pending;
    const { region, box } = pending;
    const shown = newCanvas(region.width, region.height);
    shown.getContext("2d").drawImage(region, 0, 0);
    pending.shown = tint(shown, "rgb(255, 214, 0)");
    shown.className = "found";
    const [left, top, width, height] = box.map((value, axis) => `${(100 * value) / this.size[axis % 2]}%`);
    Object.assign(shown.style, { left, top, width, height });
    this.sheet.insertBefore(shown, this.ring);
    const pixels = region.getContext("2d").getImageData(0, 0, region.width, region.height).data;
    let inside = 0;
    for (let at = 3; at < pixels.length; at += 4) inside += pixels[at];
    const share = (inside / 255 / (region.width * region.height)) * ((box[2] * box[3]) / (this.size[0] * this.size[1]));
    const what = share < 0.005 ? "less than 1 %" : percent(share);
    this.told(`Found a region, ${what} of the photo, in yellow. ${pending.keeps ? "Keep" : "Replace"} it?`);
    this.pended();
  }

  accept() {
    const found = this.pending;
    if (!found) return;
    this.discard(true);
    const stroke = { keeps: found.keeps, region: found.region, box: found.box };
    this.paint(this.canvas, stroke, 0);
    this.push(stroke);
    this.told(found.keeps ? "The region is kept." : "The region is replaced.");
  }

  // Gives up the region that is shown or looked for.
  discard(silently = false) {
    clearTimeout(this.finding);
    this.search = this.missed = null;
    if (!this.pending) return;
    this.pending.shown.remove();
    this.pending = null;
    if (!silently) this.told("The region is not used.");
    this.pended();
  }

  // The mask as a PNG file in base64: black is kept, white is replaced.
  async file() {
    const canvas = this.partOfMask([0, 0, ...this.size], this.size);
    const file = await base64(canvas, "image/png");
    canvas.width = canvas.height = 0; // gives the memory back at once
    return file;
  }

  // Words

  // How much is kept, and where it lies.
  describe() {
    const scale = 96 / Math.max(...this.size);
    const [width, height] = this.size.map((side) => Math.max(1, Math.round(side * scale)));
    const small = newCanvas(width, height);
    const context = small.getContext("2d");
    context.drawImage(this.canvas, 0, 0, width, height);
    const { data } = context.getImageData(0, 0, width, height);
    let [kept, left, top, right, bottom] = [0, width, height, -1, -1];
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        const share = 1 - data[4 * (y * width + x) + 3] / 255;
        kept += share;
        if (share < 0.5) continue;
        [left, top, right, bottom] = [Math.min(left, x), Math.min(top, y), Math.max(right, x), Math.max(bottom, y)];
      }
    }
    if (right < 0) return "Nothing is kept.";
    const share = percent(kept / (width * height));
    return `${share} of the photo is kept: ${percent(left / width)} to ${percent((right + 1) / width)} across, ${percent(top / height)} to ${percent((bottom + 1) / height)} down.`;
  }

  describeCursor() {
    const replaced = this.replacedAt(this.cursor);
    const state = replaced > 0.9 ? "replaced" : replaced < 0.1 ? "kept" : "at an edge";
    const [x, y] = this.cursor.map((value, axis) => `${Number(((100 * value) / this.size[axis]).toFixed(1))} %`);
    const pen = this.pen ? `, ${this.keeps ? "keeping" : "replacing"}` : "";
    return `${x} across, ${y} down: ${state}${pen}`;
  }

  speakCursor() {
    clearTimeout(this.speaking);
    this.speaking = setTimeout(() => this.canvas && this.told(this.describeCursor()), SPEAK_AFTER);
  }

  // Doubtful places: their middles, the largest place first.
  findSpots(doubt) {
    const scale = Math.min(1, SPOTS / Math.max(...this.size));
    const [width, height] = this.size.map((side) => Math.max(1, Math.round(side * scale)));
    const context = newCanvas(width, height).getContext("2d");
    context.drawImage(doubt, 0, 0, width, height);
    const { data } = context.getImageData(0, 0, width, height);
    const left = new Uint8Array(width * height).map((_, at) => (data[4 * at + 3] > 40 ? 1 : 0));
    const spots = [];
    for (let start = 0; start < left.length; start++) {
      if (!left[start]) continue;
      const found = [start];
      left[start] = 0;
      for (let next = 0; next < found.length; next++) {
        const [x, y] = [found[next] % width, Math.floor(found[next] / width)];
        for (const [a, b] of [[x - 1, y], [x + 1, y], [x, y - 1], [x, y + 1]]) {
          if (a < 0 || b < 0 || a >= width || b >= height || !left[b * width + a]) continue;
          left[b * width + a] = 0;
          found.push(b * width + a);
        }
      }
      const middle = found.reduce(([x, y], at) => [x + (at % width), y + Math.floor(at / width)], [0, 0]).map((sum) => sum / found.length);
      // A point of the place itself: the middle of a bent one may lie outside.
      const near = (at) => Math.hypot((at % width) - middle[0], Math.floor(at / width) - middle[1]);
      const best = found.reduce((one, other) => (near(other) < near(one) ? other : one));
      spots.push({ pixels: found.length, at: [((best % width) + 0.5) / width, (Math.floor(best / width) + 0.5) / height] });
    }
    return spots.sort((one, other) => other.pixels - one.pixels);
  }

  nextSpot() {
    if (!this.spots.length) {
      this.told("No place in this mask is marked as doubtful.");
      return;
    }
    this.endPen();
    this.spot = (this.spot + 1) % this.spots.length;
    this.cursor = this.spots[this.spot].at.map((share, axis) => share * this.size[axis]);
    this.showCursor();
    this.told(`Doubtful place ${this.spot + 1} of ${this.spots.length}. ${this.describeCursor()}`);
  }

  // The cursor: a ring as large as the brush, moved by the arrow keys or under the mouse

  drawRing(at = this.cursor) {
    if (this.ring.hidden || !this.canvas) return;
    const [x, y] = at.map((value, axis) => `${(100 * value) / this.size[axis]}%`);
    const across = this.tool === "brush" ? this.width : 2 * this.reach;
    Object.assign(this.ring.style, { left: x, top: y, width: `${(100 * across) / this.size[0]}%` });
    this.ring.classList.toggle("reach", this.tool === "region");
    this.ring.classList.toggle("pen", this.pen);
  }

  showCursor() {
    this.ring.hidden = false;
    this.drawRing();
    const margin = 40;
    const [x, y] = this.cursor.map((value) => value * this.scale);
    const [left, top] = [this.sheet.offsetLeft + x, this.sheet.offsetTop + y];
    const board = this.board;
    if (left < board.scrollLeft + margin) board.scrollLeft = left - margin;
    else if (left > board.scrollLeft + board.clientWidth - margin) board.scrollLeft = left + margin - board.clientWidth;
    if (top < board.scrollTop + margin) board.scrollTop = top - margin;
    else if (top > board.scrollTop + board.clientHeight - margin) board.scrollTop = top + margin - board.clientHeight;
  }

  // A key pressed on the board; false if it means nothing here.
  key(event) {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (step) {
      const pixels = Math.max(1 / this.scale, this.tool === "brush" ? this.width / 4 : 8 / this.scale) * (event.shiftKey ? 8 : 1);
      this.cursor = this.cursor.map((value, axis) => Math.max(0, Math.min(this.size[axis] - 1, value + step[axis] * pixels)));
      if (this.pen) this.drawing ? this.add(this.cursor) : this.begin(this.cursor);
      this.showCursor();
      this.speakCursor();
    } else if (event.key === "Enter") {
      if (event.repeat) return true;
      if (this.pending) this.accept();
      else if (this.tool === "region") this.find(this.cursor);
      else this.dab();
      this.showCursor();
    } else if (event.key === "p") {
      if (!event.repeat) this.togglePen();
    } else return false;
    return true;
  }

  // One dot of the brush at the cursor.
  dab() {
    this.endPen();
    this.begin(this.cursor);
    this.end();
    this.told(`${this.keeps ? "Kept" : "Replaced"} here. ${this.describe()}`);
  }

  // The pen down: the arrow keys paint until it is up.
  togglePen() {
    if (this.tool !== "brush") {
      this.told("Choose the brush (b) to paint with the arrow keys.");
      return;
    }
    if (this.pen) {
      this.endPen();
      this.told(`The brush is up. ${this.describe()}`);
    } else {
      this.pen = true;
      this.begin(this.cursor);
      this.told(`The brush is down: the arrow keys ${this.keeps ? "keep" : "replace"}. p: up`);
    }
    this.showCursor();
  }

  endPen() {
    if (!this.pen) return;
    this.pen = false;
    this.end();
    this.drawRing();
  }

  // One finger, a pen or the left button draws, or looks for a region; two fingers, or the middle button, move; a wheel
  // with Ctrl zooms. With regions a finger that moves does so too.
  listen() {
    const board = this.board;
    board.onpointerdown = (event) => {
      if (!this.canvas || (event.pointerType === "mouse" && event.button === 2)) return;
      event.preventDefault();
      board.focus({ preventScroll: true });
      board.setPointerCapture(event.pointerId);
      this.endPen();
      this.pointers.set(event.pointerId, event);
      this.tapped = null;
      if (this.pointers.size > 1) {
        this.giveUp();
        this.pinch = null;
      } else if (event.button === 1) this.moving = event;
      else if (this.tool === "region") {
        this.moving = event;
        this.tapped = event;
      } else this.begin(this.at(event));
    };
    board.onpointermove = (event) => {
      const last = this.pointers.get(event.pointerId);
      if (event.pointerType !== "touch" && this.canvas) this.hover(event);
      if (!last) return;
      if (this.tapped && Math.hypot(event.clientX - this.tapped.clientX, event.clientY - this.tapped.clientY) < TAP) return;
      this.tapped = null;
      this.pointers.set(event.pointerId, event);
      if (this.pointers.size === 2) this.movePinch();
      else if (this.moving) {
        board.scrollLeft -= event.clientX - last.clientX;
        board.scrollTop -= event.clientY - last.clientY;
      } else if (this.drawing) {
        const events = event.getCoalescedEvents?.() || [];
        for (const each of events.length ? events : [event]) this.add(this.at(each));
      }
    };
    const end = (event) => {
      if (!this.pointers.delete(event.pointerId)) return;
      this.pinch = this.moving = null;
      const tapped = this.tapped;
      this.tapped = null;
      if (event.type === "pointercancel") this.giveUp();
      else if (tapped) this.tap(this.at(tapped));
      else this.end();
    };
    board.onpointerup = end;
    board.onpointercancel = end;
    board.onblur = () => this.endPen(); // what is painted counts before a button is pressed
    board.onpointerleave = () => {
      if (!this.pen) this.ring.hidden = true;
    };
    board.onwheel = (event) => {
      if (!this.canvas || !event.ctrlKey) return;
      event.preventDefault();
      const box = board.getBoundingClientRect();
      this.zoom(this.scale * 1.2 ** (-event.deltaY / 100), event.clientX - box.left, event.clientY - box.top);
    };
  }

  // A click looks for a region, but not the second one of a double click, nor one beside the photo.
  tap(at) {
    if (at.some((value, axis) => value < 0 || value >= this.size[axis])) return;
    const again = this.search?.at || this.pending?.at;
    if (again && Math.hypot(at[0] - again[0], at[1] - again[1]) * this.scale < TAP) return;
    this.cursor = at;
    this.find(at);
  }

  hover(event) {
    if (this.pen) return;
    this.ring.hidden = false;
    this.drawRing(this.at(event));
  }

  movePinch() {
    const [one, other] = [...this.pointers.values()];
    const box = this.board.getBoundingClientRect();
    const now = {
      x: (one.clientX + other.clientX) / 2 - box.left,
      y: (one.clientY + other.clientY) / 2 - box.top,
      apart: Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY),
    };
    const before = this.pinch;
    this.pinch = now;
    if (!before) return;
    this.board.scrollLeft -= now.x - before.x;
    this.board.scrollTop -= now.y - before.y;
    if (before.apart > 0) this.zoom((this.scale * now.apart) / before.apart, now.x, now.y);
  }
}

