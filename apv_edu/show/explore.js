// The static player of explore(): show the picture that belongs to the positions of the controls.
(function () {
  const player = document.currentScript.previousElementSibling;
  const controls = [...player.querySelectorAll("input, select")];
  const pictures = [...player.querySelectorAll(".apv-picture")];
  const sizes = controls.map((control) => control.options ? control.options.length : Number(control.max) + 1);

  function show() {
    // The last control varies fastest, as in Python's itertools.product.
    const chosen = controls.reduce((sum, control, i) => sum * sizes[i] + Number(control.value), 0);
    pictures.forEach((picture, i) => {
      picture.hidden = i !== chosen;
      const video = picture.querySelector("video");
      if (video) i === chosen ? video.play().catch(() => {}) : video.pause();
    });
    controls.filter((control) => control.dataset.words).forEach((control) => {
      const words = control.dataset.words.split("|")[control.value];
      control.setAttribute("aria-valuetext", words);
      control.nextElementSibling.textContent = words;
    });
  }

  controls.forEach((control) => control.addEventListener("input", show));
})();
