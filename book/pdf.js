// Before a page is printed: what moves becomes pictures in a row, and what is folded opens.
async () => {
  const STATES = 4, FRAMES = 3;

  async function frames(video) {
    video.pause();
    if (video.readyState < 2) await new Promise((done) => { video.onloadeddata = done; video.preload = "auto"; video.load(); });
    const row = document.createElement("div");
    row.className = "apv-frames";
    for (let i = 0; i < FRAMES; i++) {
      const shown = new Promise((done) => { video.onseeked = done; });
      video.currentTime = Math.max(0.001, (video.duration - 0.05) * i / (FRAMES - 1));
      await shown;
      const canvas = document.createElement("canvas");
      canvas.width = video.videoWidth;
      canvas.height = video.videoHeight;
      canvas.getContext("2d").drawImage(video, 0, 0);
      const image = new Image();
      image.src = canvas.toDataURL("image/png");
      image.alt = `${video.getAttribute("aria-label")} Frame ${i + 1} of ${FRAMES}.`;
      row.append(image);
    }
    return row;
  }

  for (const player of document.querySelectorAll(".apv-explore")) {
    const controls = [...player.querySelectorAll("input, select")];
    const pictures = [...player.querySelectorAll(".apv-picture")];
    const words = (control) => control.options ? [...control.options].map((one) => one.textContent) : control.dataset.words.split("|");
    const name = (control) => control.closest("label").querySelector(".apv-name").textContent;
    const count = Math.min(STATES, pictures.length);
    const row = document.createElement("div");
    row.className = "apv-states";
    for (let i = 0; i < count; i++) {
      const chosen = count > 1 ? Math.round(i * (pictures.length - 1) / (count - 1)) : 0;
      let rest = chosen;
      const labels = controls.slice().reverse().map((control) => {
        const all = words(control), index = rest % all.length;
        rest = Math.floor(rest / all.length);
        return `${name(control)}: ${all[index]}`;
      }).reverse();
      const state = document.createElement("div"), label = document.createElement("p");
      label.textContent = labels.join(", ");
      pictures[chosen].hidden = false;
      state.append(label, pictures[chosen]);
      row.append(state);
    }
    pictures.filter((one) => !row.contains(one)).forEach((one) => one.remove());
    player.querySelector(".apv-controls").replaceWith(row);
  }
  for (const video of [...document.querySelectorAll("video")]) video.replaceWith(await frames(video));
  document.querySelectorAll("details").forEach((one) => { if (!one.matches(".above-input")) one.open = true; });
  document.querySelectorAll(".toggle-hidden").forEach((one) => one.classList.remove("toggle-hidden"));
  await Promise.all([...document.images].map((one) => one.decode().catch(() => {})));
}
