// Sends dropped photos one by one, a few at a time, and tells the page when all have arrived or were refused.
const LANES = 4;
const ATTEMPTS = 3;

async function sent(file, data) {
  if (file.size > data.most) return `${file.name}: it is larger than ${data.most / 1e6} MB`;
  // The same for every attempt: a photo whose answer was lost is not stored twice.
  const upload = Array.from(crypto.getRandomValues(new Uint32Array(4)), (n) => n.toString(36)).join("");
  for (let attempt = 1; attempt <= ATTEMPTS; attempt++) {
    try {
      const answer = await fetch(`${data.address}?name=${encodeURIComponent(file.name)}`, {
        method: "POST",
        headers: { "X-Upload-Token": data.token, "X-Upload-Id": upload, "Content-Type": "application/octet-stream" },
        body: file,
      });
      if (answer.ok) return "";
      if (answer.status < 500) return `${file.name}: ${await answer.text()}`;
    } catch {
      // the network: it may be back
    }
    await new Promise((resume) => setTimeout(resume, 1000 * attempt));
  }
  return `${file.name}: it could not be sent; drop it again`;
}

export default function ({ parentElement, data, setStateValue, setTriggerValue }) {
  const input = parentElement.querySelector("input");
  const zone = parentElement.querySelector(".zone");
  const said = parentElement.querySelector(".said");
  input.accept = data.accept;

  async function send(files) {
    if (!files.length || input.disabled) return;
    const waiting = [...files];
    const refused = [];
    let done = 0;
    input.disabled = true;
    const lane = async () => {
      for (let file = waiting.shift(); file; file = waiting.shift()) {
        const problem = await sent(file, data);
        if (problem) refused.push(problem);
        done += 1;
        said.textContent = `${done} of ${files.length} sent`;
      }
    };
    said.textContent = `0 of ${files.length} sent`;
    setStateValue("sending", true);
    await Promise.all(Array.from({ length: LANES }, lane));
    said.textContent = "";
    input.disabled = false;
    input.value = "";
    setStateValue("sending", false);
    setTriggerValue("sent", { refused });
  }

  input.onchange = () => send([...input.files]);
  zone.ondragover = (event) => {
    event.preventDefault();
    zone.classList.add("over");
  };
  zone.ondragleave = () => zone.classList.remove("over");
  zone.ondrop = (event) => {
    event.preventDefault();
    zone.classList.remove("over");
    send([...event.dataTransfer.files]);
  };
}
