// Films that play together: one clock, which the longest sets; everything else on the page is there without this.
(() => {
  const films = [...document.querySelectorAll("#films video")];
  const [play, time, speed, loop] = ["play", "time", "speed", "loop"].map((name) => document.getElementById(`films-${name}`));
  if (!films.length) return;
  let now = 0, playing = false, last = null;
  const longest = () => Math.max(0.1, ...films.map((film) => film.duration || 0));
  const rate = () => Number(speed.value) || 1;

  const seek = (seconds) => {
    now = Math.min(longest(), Math.max(0, seconds));
    for (const film of films) film.currentTime = Math.min(now, film.duration || 0);
    time.value = Math.round((now / longest()) * 1000);
  };

  const set = (on) => {
    playing = on;
    if (on && now >= longest()) seek(0);
    play.textContent = on ? "Pause" : "Play";
    for (const film of films) {
      film.playbackRate = rate();
      if (on && now < film.duration) film.play().catch(() => {}); else film.pause();
    }
  };

  const tick = (moment) => {
    const passed = last === null ? 0 : (moment - last) / 1000;
    last = moment;
    if (playing) {
      now += passed * rate();
      time.value = Math.round((Math.min(now, longest()) / longest()) * 1000);
      for (const film of films) {
        // A film that fell behind, or ran ahead, is put where the clock is.
        if (now < film.duration && Math.abs(film.currentTime - now) > 0.15) film.currentTime = now;
        if (now >= film.duration) film.pause();
      }
      if (now >= longest()) {
        if (loop.checked) { seek(0); set(true); } else set(false);
      }
    }
    requestAnimationFrame(tick);
  };

  play.addEventListener("click", () => set(!playing));
  time.addEventListener("input", () => { set(false); seek((time.value / 1000) * longest()); });
  speed.addEventListener("change", () => { for (const film of films) film.playbackRate = rate(); });
  requestAnimationFrame(tick);
})();
