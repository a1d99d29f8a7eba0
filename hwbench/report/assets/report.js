(() => {
  "use strict";
  const specs = JSON.parse(document.getElementById("charts").textContent);
  const font = getComputedStyle(document.body).fontFamily;
  const text = { labelColor: "var(--ink-2)", titleColor: "var(--ink-2)", labelFont: font, titleFont: font };
  // Colours are the page's CSS variables, so light, dark and print need no second drawing.
  const config = {
    background: "transparent",
    font,
    view: { stroke: null },
    axis: {
      ...text, labelFontSize: 11.5, titleFontSize: 12, titleFontWeight: 400, titlePadding: 8, labelPadding: 5,
      domainColor: "var(--line-2)", tickColor: "var(--line-2)", gridColor: "var(--line)", labelOverlap: "greedy",
    },
    axisX: { labelFlush: true },
    axisY: { domain: false, ticks: false, tickCount: 5, titleAngle: 0, titleAnchor: "end", titleAlign: "left", titleX: 0, titleY: -14 },
  };
  const views = [];

  const draw = async (place) => {
    try {
      const embedded = await vegaEmbed(place, specs[Number(place.dataset.chart)], {
        mode: "vega-lite", renderer: "svg", actions: false, ast: true, config, tooltip: { theme: "custom" },
      });
      views.push(embedded.view);
    } catch (error) {
      place.textContent = "This chart could not be drawn; its figures stand below it.";
      console.error(error);
    }
  };

  let focused = null;
  const keys = document.querySelectorAll("button.key");
  const focus = (profile) => {
    focused = profile === focused ? null : profile;
    keys.forEach((key) => key.setAttribute("aria-pressed", String(key.dataset.profile === focused)));
    views.forEach((view) => view.signal("focus", focused).runAsync());
  };
  keys.forEach((key) => key.addEventListener("click", () => focus(key.dataset.profile)));

  Promise.all([...document.querySelectorAll("[data-chart]")].map(draw)).then(() => {
    document.documentElement.dataset.charts = "drawn";
  });
})();
