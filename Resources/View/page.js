// What the page does by itself: sending a file, and keys. Everything else is in page.html and in BrainDiffViewer/page.py.
(function () {
  "use strict";

  const state = () => window.trame.state.state;
  const set = (name, value) => window.trame.state.set(name, value);
  const trigger = (name, args) => window.trame.trigger(name, args || []);

  function send(file) {
    if (!file || state().sending >= 0) return;
    set("error", "");
    if (file.size > state().limit) {
      set("error", `${file.name}: larger than the ${state().limit_text} that this page takes; correct it on the command line`);
      return;
    }
    const request = new XMLHttpRequest();
    request.open("POST", "upload");
    request.setRequestHeader("X-File-Name", encodeURIComponent(file.name));
    request.upload.onprogress = (event) => set("sending", event.loaded / event.total);
    request.onerror = () => set("error", `${file.name}: the connection broke while it was sent; try again`);
    request.onload = () => { if (request.status >= 400) set("error", request.responseText); };
    request.onloadend = () => set("sending", -1);
    set("sending", 0);
    request.send(file);
  }

  document.addEventListener("change", (event) => {
    if (event.target.id === "file") {
      send(event.target.files[0]);
      event.target.value = "";
    }
  });
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("dropping");
  });
  document.addEventListener("dragleave", () => document.body.classList.remove("dropping"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("dropping");
    send(event.dataTransfer.files[0]);
  });

  // The panes say what they show; the pictures in them, which trame makes, need no words of their own.
  new MutationObserver(() => {
    for (const picture of document.querySelectorAll(".pane img:not([alt])")) picture.alt = "";
  }).observe(document.documentElement, { childList: true, subtree: true });

  const typing = (target) => /^(SELECT|TEXTAREA)$/.test(target.tagName)
    || (target.tagName === "INPUT" && !/^(range|checkbox|radio|file)$/.test(target.type));
  const keys = {
    ArrowUp: ["step", [1]], ArrowDown: ["step", [-1]], ArrowRight: ["step", [1]], ArrowLeft: ["step", [-1]],
    PageUp: ["step", [10]], PageDown: ["step", [-10]], "+": ["zoom", [1]], "=": ["zoom", [1]], "-": ["zoom", [-1]], "0": ["fit", []],
  };
  const moves = { ArrowUp: [0, 1], ArrowDown: [0, -1], ArrowRight: [1, 0], ArrowLeft: [-1, 0] };

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || typing(event.target)) return;
    if (event.key.toLowerCase() === "b" && state().corrected) {
      set("blinked", !state().blinked);
    } else if (event.target.closest(".pane")) {
      if (event.shiftKey && moves[event.key]) trigger("pan", moves[event.key]);
      else if (keys[event.key]) trigger(...keys[event.key]);
      else return;
      event.preventDefault();
    }
  });
})();
