// Uploads dropped photos, a few at a time, and tells the page when all were stored or refused.
const PARALLEL = 4;
const ATTEMPTS = 3;

// Uploads one photo; returns "" or the sentence that says why it was refused.
async function upload(file, data) {
  if (file.size > data.max_bytes) return `${file.name}: it is larger than ${data.max_bytes / 1e6} MB`;
  // The id is the same for each attempt, so that a photo whose answer was lost is not stored twice.
  const id = Array.from(crypto.getRandomValues(new Uint32Array(4)), (n) => n.toString(36)).join("");
  for (let attempt = 1; attempt <= ATTEMPTS; attempt++) {
    try {
      const answer = await fetch(`${data.address}?name=${encodeURIComponent(file.name)}`, {
        method: "POST",
        headers: { "X-Upload-Token": data.token, "X-Upload-Id": id, "Content-Type": "application/octet-stream" },
        body: file,
      });
      if (answer.ok) return "";
      if (answer.status < 500) return `${file.name}: ${await answer.text()}`;
    } catch {
      // The network failed; the next attempt may succeed.
    }
    await new Promise((resume) => setTimeout(resume, 1000 * attempt));
  }
  return `${file.name}: it could not be sent; drop it again`;
}

// The photos of dropped folders, in their order; what is no file of a photo's kind is left out in folders only.
async function filesOf(transfer, extensions) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.some((entry) => entry.isDirectory)) return [...transfer.files];
  const files = [];
  const read = async (entry, inFolder) => {
    if (entry.isFile) {
      const file = await new Promise((resolve, reject) => entry.file(resolve, reject)).catch(() => null);
      if (file && (!inFolder || isPhoto(file, extensions))) files.push(file);
      return;
    }
    const reader = entry.createReader();
    for (;;) {
      // A folder is read in portions of at most 100 entries.
      const part = await new Promise((resolve, reject) => reader.readEntries(resolve, reject)).catch(() => []);
      if (!part.length) return;
      for (const each of part) await read(each, true);
    }
  };
  for (const entry of entries) await read(entry, false);
  return files;
}

function isPhoto(file, extensions) {
  return !file.name.startsWith(".") && extensions.includes(`.${file.name.toLowerCase().split(".").pop()}`);
}

export default function ({ parentElement, data, setStateValue, setTriggerValue }) {
  const zone = parentElement.querySelector(".zone");
  const [input, folder] = parentElement.querySelectorAll("input");
  const status = parentElement.querySelector(".status");
  const extensions = data.accept.split(",");
  input.accept = data.accept;
  parentElement.querySelector(".what").textContent = "Drop photos or folders here, paste them, or choose them.";
  parentElement.querySelector(".limits").textContent = data.limits;

  async function uploadAll(files) {
    if (input.disabled) return;
    if (!files.length) {
      status.textContent = "There is no photo in it.";
      return;
    }
    const waiting = [...files];
    const refused = [];
    let done = 0;
    input.disabled = folder.disabled = true;
    const worker = async () => {
      for (let file = waiting.shift(); file; file = waiting.shift()) {
        const problem = await upload(file, data);
        if (problem) refused.push(problem);
        done += 1;
        status.textContent = `${done} of ${files.length} sent`;
      }
    };
    status.textContent = `0 of ${files.length} sent`;
    setStateValue("sending", true);
    await Promise.all(Array.from({ length: PARALLEL }, worker));
    status.textContent = "";
    input.disabled = folder.disabled = false;
    input.value = folder.value = "";
    setStateValue("sending", false);
    setTriggerValue("sent", { refused });
  }

  input.onchange = () => uploadAll([...input.files]);
  folder.onchange = () => uploadAll([...folder.files].filter((file) => isPhoto(file, extensions)));
  zone.ondragover = (event) => {
    event.preventDefault();
    zone.classList.add("over");
  };
  zone.ondragleave = () => zone.classList.remove("over");
  zone.ondrop = async (event) => {
    event.preventDefault();
    zone.classList.remove("over");
    uploadAll(await filesOf(event.dataTransfer, extensions));
  };
  const paste = (event) => {
    const files = [...(event.clipboardData?.files || [])];
    if (!files.length || !zone.isConnected) return;
    event.preventDefault();
    // A picture from the clipboard is always called image.png.
    const stamp = new Date().toISOString().slice(0, 19).replaceAll(":", "-");
    uploadAll(files.map((file, number) => (file.name === "image.png" ? new File([file], `pasted ${stamp} ${number + 1}.png`, { type: file.type }) : file)));
  };
  document.addEventListener("paste", paste);
  zone.stopPasting?.();
  zone.stopPasting = () => document.removeEventListener("paste", paste);
  return zone.stopPasting;
}
