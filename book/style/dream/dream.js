// The page that dreams. The reader's actions go into the model's step, its decoder draws the belief.
(function () {
  const here = document.currentScript.src;
  const about = window.apvDream.about;
  const figure = document.querySelector(".apv-dream");
  const find = (name) => figure.querySelector(`[data-part="${name}"]`);
  const AHEAD = 10, RATE = 10, REMEMBERED = 100; // steps; RATE is a second's
  const FUTURES = 16, COLUMNS = figure.clientWidth < 500 ? 4 : 8;
  const latents = about.stoch * about.classes;
  const mostEntropy = about.stoch * Math.log(about.classes); // nats

  // Arrays out of text.
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const floats = (text) => new Float32Array(bytes(text).buffer);
  const memory = floats(about.starts[0].deter).length;
  const unpack = (text) => new Response(
    new Blob([bytes(text)]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
  function repeat(array, times) {
    const all = new Float32Array(array.length * times);
    for (let i = 0; i < times; i++) all.set(array, i * array.length);
    return all;
  }

  // The model: two graphs, each for any number of beliefs at once.
  async function loadModel() {
    await new Promise((done, failed) => {
      const script = document.createElement("script");
      script.src = new URL("runtime.js", here);
      script.onload = done;
      script.onerror = () => failed(new Error("runtime.js is missing"));
      document.head.append(script);
    });
    const parts = window.apvDream.parts;
    // A page opened as a file may fetch nothing, but import what it holds itself.
    const code = new Blob([await unpack(parts.module)], { type: "text/javascript" });
    const ort = await import(URL.createObjectURL(code));
    ort.env.wasm.numThreads = 1;
    ort.env.wasm.wasmBinary = await unpack(parts.wasm);
    const open = async (part) => ort.InferenceSession.create(new Uint8Array(await unpack(part)));
    const stepping = await open(parts.step), decoding = await open(parts.decode);
    const tensor = (data, ...shape) => new ort.Tensor(
      "float32", data, [data.length / shape.reduce((a, b) => a * b), ...shape]);
    const known = ({ deter, stoch }) => ({
      deter: tensor(deter, memory), stoch: tensor(stoch, about.stoch, about.classes) });
    return {
      async step(belief, action, noise) {
        const { next_deter, next_stoch, entropy, reward } = await stepping.run({
          ...known(belief),
          action: tensor(action, about.actions), noise: tensor(noise, about.stoch, about.classes) });
        return { deter: next_deter.data, stoch: next_stoch.data,
          entropy: entropy.data, reward: reward.data };
      },
      draw: async (belief) => (await decoding.run(known(belief))).frame.data,
    };
  }

  // Repeat a dream that PyTorch computed when the book was built: the largest difference.
  async function check(model) {
    const { action, noise, entropy, reward, deter, frame } = about.trace;
    const actions = floats(action), noises = floats(noise);
    let worst = 0;
    let belief = { deter: new Float32Array(memory), stoch: new Float32Array(latents) };
    const compare = (ours, theirs) => ours.forEach((value, i) => {
      worst = Math.max(worst, Math.abs(value - theirs[i])); });
    for (let t = 0; t < entropy.length; t++) {
      belief = await model.step(belief, actions.subarray(t * about.actions, (t + 1) * about.actions),
        noises.subarray(t * latents, (t + 1) * latents));
      compare(belief.entropy, [entropy[t]]);
      compare(belief.reward, [reward[t]]);
    }
    compare(belief.deter, floats(deter));
    compare(await model.draw(belief), floats(frame));
    return worst;
  }

  // Gumbel noise: the largest of logits + noise is a sample, and with no noise the mode.
  function gumbel(count) {
    const temperature = Number(find("temperature").value);
    return Float32Array.from({ length: count }, () =>
      temperature && -temperature * Math.log(-Math.log(Math.random() || Number.MIN_VALUE)));
  }

  // Drawing.
  function paint(canvas, pixels, most, x = 0, y = 0) {
    const side = about.size, image = new ImageData(side, side);
    for (let i = 0; i < side * side; i++) {
      for (let c = 0; c < 3; c++) image.data[4 * i + c] = pixels[3 * i + c] * 255 / most;
      image.data[4 * i + 3] = 255;
    }
    canvas.getContext("2d").putImageData(image, x, y);
  }
  const frameOf = (text, t) => bytes(text).subarray(
    t * about.size ** 2 * 3, (t + 1) * about.size ** 2 * 3);
  function plot() {
    const points = entropies.map((value, i) =>
      `${100 * i / (REMEMBERED - 1)},${40 * (1 - value / mostEntropy)}`);
    find("curve").setAttribute("points", points.join(" "));
    const now = entropies.at(-1);
    find("entropy").textContent = now === undefined ? "–" : now.toFixed(1);
  }
  function mark() {
    find("ring").hidden = !at || !find("truth").checked;
    if (at) Object.assign(find("ring").style, {
      left: `${50 * (1 + at[0])}%`, top: `${50 * (1 - at[1])}%` });
  }

  // Where the dream is.
  let model, start, belief, shown, entropies = [], at, running = false, resets = 0;
  function reset() {
    resets += 1;
    start = about.starts[find("start").value];
    belief = { deter: floats(start.deter), stoch: floats(start.stoch) };
    [shown, entropies, at] = [0, [], undefined];
    find("world").classList.remove("over");
    find("futures").width += 0; // empties it
    find("reward").textContent = "–";
    showContext();
  }
  function showContext() {
    paint(find("world"), frameOf(start.frames, shown), 255);
    paint(find("dream"), frameOf(start.seen, shown), 255);
    entropies.push(start.entropy[shown++]);
    const last = shown === start.entropy.length;
    say(last ? "The recording ends here. From now on the model dreams: steer."
      : `The model watches: frame ${shown} of ${start.entropy.length}.`);
    if (last) {
      find("world").classList.add("over");
      at = start.truth && [...start.truth.at];
    }
    plot();
    mark();
  }
  async function dream() {
    const action = steering(), before = resets;
    const next = await model.step(belief, action, gumbel(latents));
    const frame = await model.draw(next);
    if (before !== resets) return; // the reader was quicker
    belief = next;
    shown += 1;
    paint(find("dream"), frame, 1);
    entropies = [...entropies, next.entropy[0]].slice(-REMEMBERED);
    if (at) at = at.map((x, i) => Math.max(-start.truth.wall,
      Math.min(start.truth.wall, x + start.truth.speed * action[i])));
    find("reward").textContent = next.reward[0].toFixed(2);
    plot();
    mark();
    if (shown % RATE === 0) await lookAhead(action);
  }
  async function lookAhead(action) {
    const actions = repeat(action, FUTURES);
    let many = { deter: repeat(belief.deter, FUTURES), stoch: repeat(belief.stoch, FUTURES) };
    for (let t = 0; t < AHEAD; t++) many = await model.step(many, actions, gumbel(FUTURES * latents));
    const frames = await model.draw(many), length = frames.length / FUTURES, side = about.size + 1;
    for (let i = 0; i < FUTURES; i++) paint(find("futures"),
      frames.subarray(i * length, (i + 1) * length), 1, side * (i % COLUMNS), side * Math.floor(i / COLUMNS));
  }
  const step = () => shown < start.entropy.length ? showContext() : dream();

  // The clock: it rests while nobody looks.
  let visible = true, ticking = false;
  async function tick() {
    if (ticking) return;
    ticking = true;
    while (running && visible && !document.hidden) {
      const begin = performance.now();
      await step();
      const pace = 1000 / RATE * (shown <= start.entropy.length ? 3 : 1); // the context is slow
      await new Promise((done) => setTimeout(done, Math.max(0, begin + pace - performance.now())));
    }
    ticking = false;
  }
  const say = (words) => { find("status").textContent = words; };
  function run(on) {
    running = on;
    find("pause").textContent = on ? "Pause" : "Go on";
    tick();
  }

  // Steering: every key or finger holds a direction, and their sum counts.
  const WAYS = { ArrowUp: [0, 1], ArrowDown: [0, -1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] };
  const LETTERS = { w: "ArrowUp", s: "ArrowDown", a: "ArrowLeft", d: "ArrowRight" };
  const held = new Map();
  const wayOf = (button) => button.dataset.way.split(" ").map(Number);
  function steering() {
    const action = new Float32Array(about.actions);
    for (const way of held.values()) way.forEach((x, i) => { action[i] += x; });
    return action.map((x) => Math.max(-1, Math.min(1, x)));
  }
  function hold(who, way) {
    if (way) held.set(who, way); else held.delete(who);
    const [x, y] = steering();
    for (const button of find("pad").children)
      button.classList.toggle("held", `${x} ${y}` === button.dataset.way);
  }
  figure.addEventListener("keydown", (event) => {
    if (event.target.matches("input, select") || event.ctrlKey || event.metaKey || event.altKey)
      return;
    const key = LETTERS[event.key.toLowerCase()] ?? event.key;
    if (key in WAYS) hold(key, WAYS[key]);
    else if (key === " " && event.target === find("stage")) find("pause").click();
    else if (key.toLowerCase() === "r") find("reset").click();
    else return;
    event.preventDefault();
  });
  figure.addEventListener("keyup", (event) => hold(LETTERS[event.key.toLowerCase()] ?? event.key));
  const letGo = (keysOnly) => [...held.keys()].forEach((who) => {
    if (!keysOnly || who in WAYS) hold(who); });
  figure.addEventListener("focusout", () => letGo(true));
  window.addEventListener("blur", () => letGo(false));

  const under = (event) => document.elementFromPoint(event.clientX, event.clientY)
    ?.closest("[data-part=pad] > button");
  find("pad").addEventListener("pointerdown", (event) => {
    event.target.releasePointerCapture?.(event.pointerId); // so that a finger can slide on
    const button = under(event);
    hold(event.pointerId, button && wayOf(button));
  });
  find("pad").addEventListener("pointermove", (event) => {
    const button = held.has(event.pointerId) && under(event);
    if (button) hold(event.pointerId, wayOf(button));
  });
  for (const end of ["pointerup", "pointercancel"])
    window.addEventListener(end, (event) => hold(event.pointerId));
  find("pad").addEventListener("click", (event) => { // by keyboard or by a helper, without a finger
    if (event.detail || !event.target.dataset.way) return;
    hold("click", wayOf(event.target));
    setTimeout(() => hold("click"), 500);
  });

  find("reset").addEventListener("click", reset);
  find("start").addEventListener("change", reset);
  find("pause").addEventListener("click", () => run(!running));
  find("truth").addEventListener("change", mark);
  find("temperature").addEventListener("input", ({ target }) => {
    const value = Number(target.value);
    const words = value ? value.toFixed(1) : "0 (mode)";
    find("degrees").textContent = words;
    target.setAttribute("aria-valuetext", words);
  });
  new IntersectionObserver(([entry]) => { visible = entry.isIntersecting; tick(); }).observe(figure);
  document.addEventListener("visibilitychange", tick);

  find("begin").addEventListener("click", async () => {
    find("begin").disabled = true;
    say("The model is being loaded.");
    try {
      model = await loadModel();
      const worst = await check(model);
      find("check").textContent = `On this device the model differs from PyTorch by at most ${
        worst.toExponential(0)}, over ${about.trace.entropy.length} steps.`;
      Object.assign(figure, { model, worst, dream, lookAhead: () => lookAhead(steering()) });
      find("begin").hidden = true;
      for (const control of figure.querySelectorAll(":disabled")) control.disabled = false;
      reset();
      find("stage").focus({ preventScroll: true });
      run(true);
    } catch (error) {
      find("begin").disabled = false;
      say(`The model could not be started (${error.message}): try a newer browser.`);
    }
  });

  // What is there before the model is.
  find("size").textContent = about.megabytes.toFixed(0);
  find("most").textContent = mostEntropy.toFixed(0);
  find("truth").parentElement.hidden = !about.starts[0].truth;
  about.starts.forEach((_, i) => find("start").add(new Option(`${i + 1} of ${about.starts.length}`, i)));
  for (const name of ["world", "dream"]) find(name).width = find(name).height = about.size;
  find("futures").width = COLUMNS * (about.size + 1) - 1;
  find("futures").height = FUTURES / COLUMNS * (about.size + 1) - 1;
  start = about.starts[0];
  shown = start.entropy.length - 1;
  paint(find("world"), frameOf(start.frames, shown), 255);
  paint(find("dream"), frameOf(start.seen, shown), 255);
})();
