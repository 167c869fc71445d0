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

export default function ({ parentElement, data, setStateValue, setTriggerValue }) {
  const input = parentElement.querySelector("input");
  const zone = parentElement.querySelector(".zone");
  const status = parentElement.querySelector(".status");
  input.accept = data.accept;

  async function uploadAll(files) {
    if (!files.length || input.disabled) return;
    const waiting = [...files];
    const refused = [];
    let done = 0;
    input.disabled = true;
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
    input.disabled = false;
    input.value = "";
    setStateValue("sending", false);
    setTriggerValue("sent", { refused });
  }

  input.onchange = () => uploadAll([...input.files]);
  zone.ondragover = (event) => {
    event.preventDefault();
    zone.classList.add("over");
  };
  zone.ondragleave = () => zone.classList.remove("over");
  zone.ondrop = (event) => {
    event.preventDefault();
    zone.classList.remove("over");
    uploadAll([...event.dataTransfer.files]);
  };
}
