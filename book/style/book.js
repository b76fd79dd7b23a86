// What scrolls sideways can be reached from the keyboard; what does not, stays out of the way.
(function () {
  function mark() {
    document.querySelectorAll(".bd-article table, .bd-article mjx-container[display]").forEach((box) => {
      if (box.scrollWidth > box.clientWidth + 1) box.tabIndex = 0;
      else box.removeAttribute("tabindex");
    });
  }
  addEventListener("load", mark);
  addEventListener("resize", mark);
})();
