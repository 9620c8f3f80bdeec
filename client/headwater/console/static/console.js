// The time bar, keys, search and live pages. Pages are made on the server and work without this
// script: it asks for the same address with X-Fragment and puts what comes back into #content.
// Text from the database is only ever set as text, or comes escaped from the server.
"use strict";
(() => {
  const $ = (selector, root = document) => root.querySelector(selector);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const content = $("#content");
  const say = text => { $("#say").textContent = text; };
  const bar = () => $("#time");
  let playing = 0, source = null, newest = 0;

  // The address is the state. One request is under way at most; the newest address wins.
  let busy = false, next = null;
  async function show(address, push) {
    if (push) history.pushState(null, "", address); else history.replaceState(null, "", address);
    next = address;
    if (busy) return;
    busy = true;
    document.body.classList.add("busy");
    try {
      while (next) {
        const wanted = next;
        next = null;
        const response = await fetch(wanted, { headers: { "X-Fragment": "1" } });
        if (response.status === 401) { location.reload(); return; }
        const html = await response.text();
        if (next) continue;
        if (response.redirected) {
          const url = new URL(response.url);
          history.replaceState(null, "", url.pathname + url.search);
        }
        replace(html);
      }
    } catch {
      say("The console does not answer");
      lost("The console does not answer. What is shown is what was seen last.");
    } finally {
      busy = false;
      document.body.classList.remove("busy");
    }
  }
  function replace(html) {
    const y = scrollY;
    const focus = document.activeElement;
    const act = focus && focus.dataset ? focus.dataset.act : null;
    const rows = all("main [data-row]");
    const row = focus && focus.closest ? rows.indexOf(focus.closest("[data-row]")) : -1;
    const onTrack = focus && focus.id === "track";
    const typing = focus && focus.matches && focus.matches("main input") ? focus.name : null;
    const open = new Set(all("main details[open]").map(each => each.dataset.k));
    const seen = new Set(all("#list [data-id]").map(each => each.dataset.id));
    const tail = $("[data-tail]");
    // Parsed apart, so that nothing in it runs; the policy of the page forbids it as well.
    const parsed = new DOMParser().parseFromString(html, "text/html");
    content.replaceChildren(...parsed.body.childNodes);
    for (const each of all("main details[data-k]")) if (open.has(each.dataset.k) && each.classList.contains("raw")) each.open = true;
    if (tail && $("[data-tail]")) for (const each of all("#list [data-id]")) if (!seen.has(each.dataset.id)) each.classList.add("fresh");
    document.title = $("main").dataset.title;
    begin();
    if (onTrack) $("#track").focus();
    else if (act && $(`[data-act="${act}"]`, bar() || document)) $(`[data-act="${act}"]`, bar() || document).focus();
    else if (row >= 0) { const found = all("main [data-row]")[row]; if (found) target(found).focus({ preventScroll: true }); }
    else if (typing && $(`main input[name="${typing}"]`)) $(`main input[name="${typing}"]`).focus();
    scrollTo(0, y);
  }
  const target = row => row.matches("a") ? row : $("a", row) || row;
  function here(changes) {
    const url = new URL(location.href);
    for (const [name, value] of Object.entries(changes)) if (value === null) url.searchParams.delete(name); else url.searchParams.set(name, value);
    return url.pathname + url.search;
  }
  const at = () => +bar().dataset.at;
  const isLive = () => bar().dataset.live === "1";
  function move(commit, push = true) {
    if (!bar()) return;
    newest = Math.max(newest, +bar().dataset.newest);
    show(here({ at: commit === null || commit >= newest ? null : Math.max(1, Math.round(commit)) }), push);
  }

  // The track.
  const query = name => new URLSearchParams(location.search).get(name);
  const axis = () => query("axis") === "commits" ? "commits" : "time";
  function view() {
    const found = (query("view") || "").match(/^(\d+)\.\.(\d+)$/), end = Math.max(newest, +bar().dataset.newest, 2);
    if (!found) return [1, end];
    const low = Math.max(1, Math.min(+found[1], end - 1));
    return [low, Math.max(low + 1, Math.min(+found[2], end))];
  }
  let scale = null;
  const xOf = commit => scale ? scale.x(commit) : 0;
  function number(value) { return Math.round(value).toLocaleString("en-US"); }
  function make(name, attributes, parent) {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    parent.append(element);
    return element;
  }
  function draw() {
    const section = bar();
    if (!section) return;
    const track = $("#track"), width = track.clientWidth || 800, height = track.clientHeight || 52;
    const [low, high] = view(), now = at(), oldest = +section.dataset.oldest, marks = JSON.parse(section.dataset.marks);
    scale = scaleOf(low, high);
    const clamp = x => Math.max(0, Math.min(1, x)), px = x => (clamp(x) * width).toFixed(1);
    const top = 4, base = height - 26, svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("aria-hidden", "true");
    const here01 = isLive() && high >= +section.dataset.newest ? 1 : xOf(now);
    const pattern = make("pattern", { id: "hatch", width: 6, height: 6, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" }, make("defs", {}, svg));
    make("rect", { width: 1.2, height: 6, class: "hatch" }, pattern);
    scale.bars(svg, width, top, base, here01);
    const edge = clamp(xOf(oldest));
    if (edge > 0 && oldest > 1) {
      make("rect", { class: "gone", x: 0, y: top, width: px(edge), height: base - top }, svg);
      make("line", { class: "gone-edge", x1: px(edge), x2: px(edge), y1: top, y2: base + 9 }, svg);
      if (edge * width > 140) make("text", { class: "tick", x: 8, y: top + 11 }, svg).textContent = "events only";
    }
    if (section.dataset.vs) {
      const pin = clamp(xOf(+section.dataset.vs)), left = Math.min(pin, clamp(here01)), right = Math.max(pin, clamp(here01));
      make("rect", { class: "span", x: px(left), y: top, width: ((right - left) * width).toFixed(1), height: base - top }, svg);
      make("line", { x1: px(pin), x2: px(pin), y1: 0, y2: base }, make("g", { class: "pin" }, svg));
    }
    make("line", { class: "base", x1: 0, x2: width, y1: base, y2: base }, svg);
    const [begin, end] = [scale.share(low), scale.share(high)];
    if (end - begin < .999) {
      make("rect", { class: "mini", x: 0, y: -4, width, height: 2 }, svg);
      make("rect", { class: "mini on", x: (begin * width).toFixed(1), y: -4, width: Math.max(2, (end - begin) * width).toFixed(1), height: 2 }, svg);
    }
    for (const [commit, kind] of marks) {
      const x = xOf(commit);
      if (x < 0 || x > 1) continue;
      if (kind === "snap") make("circle", { class: "mark snap", cx: px(x), cy: base + 5, r: 3.5 }, svg);
      else make("rect", { class: `mark ${kind}`, x: (x * width - 1).toFixed(1), y: base + 1, width: 2, height: 8 }, svg);
    }
    const steps = width < 500 ? 2 : width < 800 ? 4 : 6;
    for (let i = 0; i <= steps; i++) {
      const x = i / steps, anchor = i === 0 ? "start" : i === steps ? "end" : "middle";
      make("text", { class: "tick", x: px(x), y: height - 3, "text-anchor": anchor }, svg).textContent = i === steps && isLive() && high >= +section.dataset.newest ? "now" : scale.label(x);
    }
    const handle = Math.min(width - 1, Math.max(1, clamp(here01) * width)), group = make("g", { class: "handle" }, svg);
    make("line", { x1: handle, x2: handle, y1: 0, y2: base + 10 }, group);
    make("rect", { x: handle - 4, y: -2, width: 8, height: 6, rx: 1.5 }, group);
    track.replaceChildren(svg);
    document.documentElement.style.setProperty("--bar-h", section.offsetHeight + "px");
    $('[data-act="axis-time"]').setAttribute("aria-pressed", axis() === "time");
    $('[data-act="axis-commits"]').setAttribute("aria-pressed", axis() === "commits");
  }
  // Slices of the track, from the server: marks of [commit, milliseconds, position].
  let slices = { key: "", marks: [] }, wantedSlices = "";
  function slicesOf(low, high) {
    const n = Math.max(40, Math.min(250, Math.floor(($("#track").clientWidth || 800) / 5)));
    const key = `axis=${axis()}&low=${low}&high=${high}&n=${n}`;
    if (slices.key !== key && wantedSlices !== key) {
      wantedSlices = key;
      fetch(`/track?${key}`).then(response => response.ok ? response.json() : { marks: [] }).then(found => {
        if (wantedSlices !== key) return;
        slices = { key, marks: found.marks };
        draw();
      }).catch(() => {});
    }
    // Until they come, those of the last moment are nearly right.
    return slices.key.startsWith(`axis=${axis()}&low=${low}&`) ? slices.marks : [];
  }
  function clock(ms) { return new Date(ms).toISOString().slice(11, 19); }
  function scaleOf(low, high) {
    const end = Math.max(2, newest, +bar().dataset.newest), marks = slicesOf(low, high), n = marks.length - 1, byTime = axis() === "time" && n > 0;
    const share = commit => (commit - 1) / (end - 1);
    const bars = (svg, width, top, base, here01) => {
      if (n < 1) return;
      const counts = [];
      for (let i = 0; i < n; i++) counts.push(marks[i + 1][byTime ? 0 : 2] - marks[i][byTime ? 0 : 2]);
      const most = Math.max(1, ...counts);
      counts.forEach((count, i) => {
        if (!count) return;
        const height = Math.max(1, (base - top) * count / most);
        make("rect", { class: `hist ${i / n > here01 ? "after" : ""}`, x: (i / n * width).toFixed(1), width: Math.max(1, width / n - 1).toFixed(1), y: (base - height).toFixed(1), height: height.toFixed(1) }, svg);
      });
    };
    if (!byTime) {
      return {
        share, bars,
        x: commit => (commit - low) / (high - low),
        commit: x => Math.round(low + x * (high - low)),
        label: x => "commit " + number(low + x * (high - low)),
      };
    }
    return {
      share, bars,
      x: commit => {
        if (commit <= marks[0][0]) return 0;
        for (let i = 0; i < n; i++) if (commit <= marks[i + 1][0]) return (i + (commit - marks[i][0]) / (marks[i + 1][0] - marks[i][0])) / n;
        return 1;
      },
      commit: x => {
        const i = Math.min(n - 1, Math.floor(x * n));
        return Math.max(1, Math.round(marks[i][0] + (x * n - i) * (marks[i + 1][0] - marks[i][0])));
      },
      label: x => clock(marks[0][1] + x * (marks[n][1] - marks[0][1])),
    };
  }
  function zoom(factor) {
    const [low, high] = view(), end = Math.max(newest, +bar().dataset.newest, 2), middle = Math.max(low, Math.min(high, at()));
    const size = Math.max(20, Math.min(end - 1, (high - low) * factor));
    const from = Math.max(1, Math.round(middle - size * (middle - low) / (high - low))), to = Math.min(end, Math.round(from + size));
    pan(from <= 1 && to >= end ? null : `${from}..${to}`);
  }
  function pan(value) { history.replaceState(null, "", here({ view: value })); keep("view", value); draw(); }
  // Links of the page keep how the track is drawn.
  function keep(name, value) {
    for (const link of all('a[href^="/"]')) {
      const url = new URL(link.getAttribute("href"), location.origin);
      if (value === null) url.searchParams.delete(name); else url.searchParams.set(name, value);
      link.setAttribute("href", url.pathname + url.search);
    }
  }
  // A drag goes on while pages come in and replace the track under it, so its state is outside.
  let dragging = false, raf = 0;
  function dragTo(event) {
    const box = $("#track").getBoundingClientRect(), x = Math.max(0, Math.min(1, (event.clientX - box.left) / box.width));
    let commit = scale.commit(x);
    const near = JSON.parse(bar().dataset.marks).find(([each]) => Math.abs(xOf(each) - x) * box.width < 5);
    if (near && !event.altKey) commit = near[0];
    cancelAnimationFrame(raf);
    raf = requestAnimationFrame(() => move(x > .998 ? null : commit, false));
  }
  addEventListener("pointermove", event => { if (dragging && bar()) dragTo(event); });
  addEventListener("pointerup", event => { if (dragging) { dragging = false; if (bar()) dragTo(event); } });
  function wire(track) {
    track.addEventListener("pointerdown", event => {
      stop();
      if (event.shiftKey) { const box = track.getBoundingClientRect(); show(here({ vs: Math.max(1, scale.commit((event.clientX - box.left) / box.width)) }), true); return; }
      dragging = true;
      // One entry for the whole drag: going back once undoes it.
      history.pushState(null, "", location.href);
      dragTo(event);
    });
    track.addEventListener("wheel", event => {
      if (event.ctrlKey) { event.preventDefault(); zoom(event.deltaY > 0 ? 1.25 : .8); }
      else if (event.deltaX) {
        event.preventDefault();
        const [low, high] = view(), end = Math.max(newest, +bar().dataset.newest), by = Math.round(event.deltaX / track.clientWidth * (high - low));
        const from = Math.max(1, Math.min(end - (high - low), low + by));
        pan(`${from}..${from + high - low}`);
      }
    }, { passive: false });
    track.addEventListener("keydown", event => {
      const step = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -100, PageUp: 100 }[event.key];
      if (step) { event.preventDefault(); event.stopPropagation(); move(at() + step * (event.shiftKey ? 10 : 1)); }
      if (event.key === "Home") { event.preventDefault(); move(1); }
      if (event.key === "End") { event.preventDefault(); move(null); }
    });
  }

  // Playing: from change to change of the object, or by hundredths of what the track shows.
  function stop() { if (playing) { clearInterval(playing); playing = 0; marked(); } }
  function marked() {
    const button = $('[data-act="play"]');
    if (!button) return;
    button.classList.toggle("on", playing !== 0);
    button.setAttribute("aria-label", playing ? "Pause" : "Play");
    if (playing) $(".status").textContent = "Playing";
  }
  function play() {
    if (playing) { stop(); return; }
    if (!bar() || isLive()) return;
    const step = () => {
      if (busy) return;
      const marks = JSON.parse(bar().dataset.marks).map(([commit]) => commit), [low, high] = view();
      const following = marks.length ? marks.find(commit => commit > at()) : at() + Math.max(1, Math.round((high - low) / 100));
      if (following === undefined || following >= newest) { stop(); move(null); } else move(following, false);
    };
    playing = setInterval(step, JSON.parse(bar().dataset.marks).length ? 700 : 300);
    step();
    marked();
  }

  // Live: the server says when there are new commits; the page is then asked for again.
  function lost(text) {
    let note = $("#lost");
    if (!text) { if (note) note.remove(); return; }
    if (!note) { note = document.createElement("div"); note.id = "lost"; note.className = "note bad"; note.setAttribute("role", "alert"); $("main").prepend(note); }
    note.textContent = text;
  }
  let due = 0, rested = false;
  document.addEventListener("pointerover", event => { rested = Boolean(event.target.closest && event.target.closest("#list tbody tr")); });
  function follow() {
    if (source) { source.close(); source = null; }
    if (document.hidden || !bar() || !isLive()) return;
    source = new EventSource(`/live?after=${Math.max(newest, +bar().dataset.newest)}`);
    source.onmessage = event => {
      newest = JSON.parse(event.data).commit;
      lost(null);
      if (!bar() || !isLive() || due) return;
      due = setTimeout(() => {
        due = 0;
        if (!bar() || !isLive() || dragging) return;
        if ($("#question")) return;
        if (document.activeElement && document.activeElement.matches("main input, #commit") || scrollY > 200 || rested) {
          const pill = $("#totop");
          if (pill) pill.hidden = false;
          return;
        }
        if ($("dialog[open]")) return;
        show(location.pathname + location.search, false);
      }, 1000);
    };
    source.addEventListener("lost", event => lost(`Not live: ${JSON.parse(event.data)}`));
    source.onerror = () => { if (source && source.readyState === EventSource.CLOSED) lost("Not live: the console does not answer."); };
  }
  document.addEventListener("visibilitychange", follow);

  // Keys and clicks.
  const click = name => { const link = $(`[data-act="${name}"]`); if (link && link.href) link.click(); };
  function theme() {
    const dark = getComputedStyle(document.documentElement).colorScheme === "dark", name = dark ? "light" : "dark";
    document.documentElement.dataset.theme = name;
    try { localStorage.setItem("headwater-theme", name); } catch { /* Some browsers refuse storage. */ }
  }
  function axisTo(name) { history.replaceState(null, "", here({ axis: name === "time" ? null : name })); keep("axis", name === "time" ? null : name); draw(); }
  const acts = {
    play, theme, find: openFind, help: () => $("#help").showModal(), in: () => zoom(.5), out: () => zoom(2),
    "axis-time": () => axisTo("time"), "axis-commits": () => axisTo("commits"),
  };
  document.addEventListener("click", event => {
    if (event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    const button = event.target.closest("button[data-act]");
    if (button) { if (acts[button.dataset.act]) acts[button.dataset.act](); return; }
    if (event.target.id === "totop") { event.preventDefault(); scrollTo(0, 0); show(location.pathname + location.search, false); return; }
    const link = event.target.closest("a[data-soft]");
    if (link) { event.preventDefault(); stop(); show(link.getAttribute("href"), true); return; }
    if (event.target.closest("a, button, input, select, form")) return;
    const summary = event.target.closest("summary[data-soft]");
    if (summary) { event.preventDefault(); show(summary.dataset.soft, true); return; }
    if (event.target.closest("summary")) return;
    const row = event.target.closest("tr[data-href], tr[data-soft]");
    if (!row || getSelection().toString()) return;
    if (row.dataset.href) location.href = row.dataset.href; else show(row.dataset.soft, true);
  });
  document.addEventListener("submit", event => {
    if (!event.target.matches(".goto")) return;
    event.preventDefault();
    const url = new URL(event.target.action, location.origin);
    for (const [name, value] of new FormData(event.target)) url.searchParams.set(name, value);
    $("#commit").blur();
    show(url.pathname + url.search, true);
  });
  let g = 0;
  document.addEventListener("keydown", event => {
    if (event.key === "Escape" && event.target.id === "commit") { event.target.blur(); return; }
    if (event.target.closest("input, select, textarea, dialog[open]") || event.altKey) return;
    const key = event.key;
    if (event.metaKey || event.ctrlKey) { if (key === "k") { event.preventDefault(); openFind(); } return; }
    if (g && Date.now() - g < 1000) {
      g = 0;
      const link = $(`.nav [data-page="${CSS.escape(key)}"]`);
      // The navigation stands outside of what is replaced, so its links get the moment here.
      if (link) { location.href = moved(link.dataset.path); return; }
    }
    if (key === "g") { g = Date.now(); return; }
    if (key !== " ") stop();
    const simple = { "[": "back", "]": "fwd", "{": "prevmark", "}": "nextmark", l: "live", p: "pin" };
    if (simple[key]) { event.preventDefault(); click(simple[key]); return; }
    const does = { "/": openFind, "?": acts.help, "+": acts.in, "=": acts.in, "-": acts.out };
    if (does[key]) { event.preventDefault(); does[key](); return; }
    if (key === " " && !event.target.closest("button, a, summary")) { event.preventDefault(); play(); return; }
    if (key === "x") { axisTo(axis() === "time" ? "commits" : "time"); return; }
    if (key === "@" && $("#commit")) { event.preventDefault(); $("#commit").focus(); $("#commit").select(); return; }
    if (key === "y" && bar()) {
      const address = location.origin + here({ at: at() });
      if (navigator.clipboard) navigator.clipboard.writeText(address).catch(() => {});
      say(`Address of commit ${at()} copied`);
      return;
    }
    if (key === "j" || key === "k") {
      const rows = all("main [data-row]"), focus = document.activeElement;
      if (!rows.length) return;
      const i = rows.indexOf(focus && focus.closest ? focus.closest("[data-row]") : null);
      target(rows[Math.max(0, Math.min(rows.length - 1, i + (key === "j" ? 1 : -1)))]).focus();
    }
  });
  function moved(path) {
    const url = new URL(path, location.origin);
    for (const name of ["at", "vs", "axis", "view"]) if (query(name)) url.searchParams.set(name, query(name));
    return url.pathname + url.search;
  }

  // Find.
  let found = [], chosen = 0, asked = 0;
  function openFind() { const dialog = $("#find"); dialog.showModal(); $("#fq").value = ""; offer([]); $("#fq").focus(); }
  function offer(items) {
    found = items;
    chosen = 0;
    const list = $("#fl");
    list.replaceChildren(...items.map((item, place) => {
      const row = document.createElement("li"), link = document.createElement("a"), kind = document.createElement("span"), name = document.createElement("span");
      row.setAttribute("role", "option");
      row.setAttribute("aria-selected", String(place === 0));
      kind.className = "muted";
      kind.textContent = item.kind;
      name.className = "clip";
      name.textContent = item.name;
      link.href = item.address;
      link.append(kind, name);
      row.append(link);
      return row;
    }));
    if (!items.length && $("#fq").value.trim()) {
      const row = document.createElement("li");
      row.className = "none muted";
      row.textContent = "Nothing begins so. Names are matched from their beginning.";
      list.append(row);
    }
  }
  $("#fq").addEventListener("input", async () => {
    const mine = ++asked;
    const response = await fetch(`/find?q=${encodeURIComponent($("#fq").value)}`);
    if (mine === asked && response.ok) offer((await response.json()).found);
  });
  $("#fq").addEventListener("keydown", event => {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      chosen = Math.max(0, Math.min(found.length - 1, chosen + (event.key === "ArrowDown" ? 1 : -1)));
      all("#fl li").forEach((row, place) => row.setAttribute("aria-selected", String(place === chosen)));
    }
    if (event.key === "Enter" && found[chosen]) location.href = found[chosen].address;
  });
  for (const dialog of all("dialog")) dialog.addEventListener("click", event => { if (event.target === dialog) dialog.close(); });

  // A move that still waits for its frame would change the address that is come back to.
  addEventListener("popstate", () => { stop(); cancelAnimationFrame(raf); next = null; show(location.pathname + location.search, false); });
  let resized = 0;
  addEventListener("resize", () => { cancelAnimationFrame(resized); resized = requestAnimationFrame(draw); });
  function begin() {
    if (!bar()) { if (source) { source.close(); source = null; } return; }
    newest = Math.max(newest, +bar().dataset.newest);
    for (const link of all(".top a[data-path], .nav a[data-path], .menu a[data-path]")) link.href = moved(link.dataset.path);
    draw();
    wire($("#track"));
    marked();
    if (isLive() ? !source : source) follow();
  }
  begin();
})();
