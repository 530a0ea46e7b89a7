// Draws a dashboard with Grafana's panel library and returns what can be seen of it.
//
// The library has the panels; the Grafana application around it has their defaults and asks the data sources. What the
// application does for a dashboard is done here: frames of Prometheus' answers, defaults of each type of panel,
// overrides and transformations.
"use strict";

const { React, createRoot, data, ui } = window.grafana;
const h = React.createElement;
const theme = data.createTheme({ colors: { mode: "dark" } });
const CELL = { width: 66, height: 38, gap: 8 };
const TITLE = 36;

// What the application gives a panel whose JSON says nothing of it.
const GRAFANA_STEPS = { mode: "absolute", steps: [{ value: null, color: "green" }, { value: 80, color: "red" }] };
const DEFAULT_COLOR = { timeseries: "palette-classic", stat: "thresholds", table: "thresholds" };
const DEFAULT_LINES = {
  drawStyle: "line", lineInterpolation: "linear", lineWidth: 1, fillOpacity: 0, gradientMode: "none", pointSize: 5,
  showPoints: "auto", spanNulls: false, axisPlacement: "auto", axisLabel: "", axisColorMode: "text",
  scaleDistribution: { type: "linear" }, hideFrom: { legend: false, tooltip: false, viz: false },
  stacking: { mode: "none", group: "A" }, thresholdsStyle: { mode: "off" },
};

const transformers = new Map(Object.values(data.standardTransformers).map((each) => [each.id, each])); // one has two names
data.standardTransformersRegistry.setInit(() =>
  [...transformers].map(([id, each]) => ({ id, name: each.name, transformation: each })),
);

function registryOf(fieldConfig) {
  const named = [fieldConfig, ...(fieldConfig.overrides ?? [])];
  const custom = new Set(Object.keys(fieldConfig.defaults?.custom ?? {}));
  for (const { properties } of named) {
    for (const { id } of properties ?? []) if (id.startsWith("custom.")) custom.add(id.slice("custom.".length));
  }
  const plain = ["unit", "min", "max", "decimals", "displayName", "noValue", "thresholds", "mappings", "color", "links"];
  const item = (path, isCustom) => ({
    id: isCustom ? `custom.${path}` : path, path, isCustom, name: path, process: (value) => value,
    shouldApply: ({ type }) => !isCustom || type !== "time", override: () => null, editor: () => null,
  });
  const items = [...plain.map((path) => item(path, false)), ...[...custom].map((path) => item(path, true))];
  return new data.FieldConfigOptionsRegistry(() => items);
}

function withDefaults(panel) {
  const { defaults = {}, overrides = [] } = panel.fieldConfig ?? {};
  const custom = panel.type === "timeseries" ? { ...DEFAULT_LINES, ...defaults.custom } : { ...defaults.custom };
  const color = defaults.color ?? { mode: DEFAULT_COLOR[panel.type] };
  return { defaults: { thresholds: GRAFANA_STEPS, color, ...defaults, custom }, overrides };
}

function configured(panel, frames) {
  const fieldConfig = withDefaults(panel);
  return data.applyFieldOverrides({
    data: frames, fieldConfig, theme, timeZone: "utc", fieldConfigRegistry: registryOf(fieldConfig),
    replaceVariables: (text) => text,
  });
}

// A sample that is no number is a gap.
const numeric = (text) => (Number.isFinite(Number(text)) ? Number(text) : null);

const rendered = (legend, labels) => legend.replace(/\{\{\s*(\w+)\s*\}\}/g, (_, label) => labels[label] ?? "");

function framesOfLines({ refId, legend, result }, range) {
  const times = [];
  for (let at = range.from; at <= range.to; at += range.step) times.push(at);
  return result.map(({ metric, values }) => {
    const found = new Map(values.map(([at, text]) => [Math.round(at * 1000), numeric(text)]));
    const config = { displayNameFromDS: rendered(legend, metric) || undefined };
    return data.toDataFrame({
      refId,
      fields: [
        { name: "Time", type: "time", values: times.map((at) => at * 1000), config: {} },
        { name: "Value", type: "number", values: times.map((at) => found.get(at * 1000) ?? null), labels: metric, config },
      ],
    });
  });
}

function frameOfTable({ refId, result }, range) {
  const labels = [...new Set(result.flatMap(({ metric }) => Object.keys(metric)))];
  return data.toDataFrame({
    refId,
    fields: [
      { name: "Time", type: "time", values: result.map(() => range.to * 1000), config: {} },
      ...labels.map((label) => ({
        name: label, type: "string", values: result.map(({ metric }) => metric[label] ?? ""), config: {},
      })),
      { name: `Value #${refId}`, type: "number", values: result.map(({ value }) => numeric(value[1])), config: {} },
    ],
  });
}

function frameOfNumber({ refId, legend, result }, range) {
  return result.map(({ metric, value }) =>
    data.toDataFrame({
      refId,
      fields: [
        { name: "Time", type: "time", values: [range.to * 1000], config: {} },
        {
          name: "Value", type: "number", values: [numeric(value[1])], labels: metric,
          config: { displayNameFromDS: rendered(legend, metric) || undefined },
        },
      ],
    }),
  );
}

function transformed(frames, transformations) {
  return new Promise((resolve, reject) =>
    data.transformDataFrame(transformations ?? [], frames).subscribe({ next: resolve, error: reject }),
  );
}

const extent = (values) => {
  const numbers = values.filter((value) => value !== null && value !== undefined);
  return numbers.length === 0 ? null : [Math.min(...numbers), Math.max(...numbers)];
};

function Lines({ panel, frames, range, width, height, seen }) {
  const shown = configured(panel, frames);
  const time = { from: data.dateTime(range.from * 1000), to: data.dateTime(range.to * 1000) };
  // The names in the legend are worked out over all series, as two of one name get a number.
  for (const frame of shown) data.getFieldDisplayName(frame.fields[1], frame, shown);
  let names = [];
  const note = (plot) => {
    seen.series = plot.series.slice(1).map((series, index) => ({
      name: names[index], extent: extent([...plot.data[index + 1]]),
      scale: [plot.scales[series.scale].min, plot.scales[series.scale].max],
    }));
    seen.axes = plot.axes.slice(1).map(({ label, _values }) => ({ label: label ?? "", ticks: _values ?? [] }));
  };
  const remember = (config, aligned) => {
    names = aligned.fields.slice(1).map((field) => data.getFieldDisplayName(field, aligned));
    config.addHook("draw", note);
    return null;
  };
  seen.steps = shown[0]?.fields[1].config.thresholds?.steps;
  seen.stepsAreDrawn = panel.fieldConfig.defaults.custom?.thresholdsStyle?.mode?.match(/line|dashed/) != null;
  return h(ui.TimeSeries, {
    frames: shown, timeRange: { ...time, raw: time }, timeZone: "utc", width, height, structureRev: 1,
    legend: panel.options?.legend, children: remember,
  });
}

function NumberPanel({ panel, frames, width, height, seen }) {
  const fieldConfig = withDefaults(panel);
  const values = data.getFieldDisplayValues({
    fieldConfig, reduceOptions: panel.options.reduceOptions, data: configured(panel, frames), theme, timeZone: "utc",
    replaceVariables: (text) => text,
  });
  seen.steps = fieldConfig.defaults.thresholds.steps;
  seen.numbers = values.map(({ display }) => ({ text: data.formattedValueToString(display), color: display.color }));
  const value = values[0]?.display ?? { text: fieldConfig.defaults.noValue ?? "No data", numeric: NaN };
  return h(ui.BigValue, {
    theme, width, height, value, colorMode: panel.options.colorMode ?? "value", graphMode: "none", textMode: "value",
    justifyMode: "auto",
  });
}

function TablePanel({ panel, frames, width, height, seen }) {
  const [frame] = configured(panel, frames);
  seen.columns = frame.fields.map((field) => ({
    name: data.getFieldDisplayName(field, frame),
    steps: field.config.thresholds?.steps,
    links: (field.config.links ?? []).map(({ url }) => url),
    cells: [...field.values].map((value) => data.formattedValueToString(field.display(value))),
  }));
  return h(ui.Table, { data: frame, width, height, initialSortBy: panel.options?.sortBy });
}

const COMPONENTS = { timeseries: Lines, stat: NumberPanel, table: TablePanel };

async function framesOf(panel, answers, range) {
  if (panel.type === "table") {
    return transformed(answers.map((answer) => frameOfTable(answer, range)), panel.transformations);
  }
  return answers.flatMap((answer) => (panel.type === "stat" ? frameOfNumber : framesOfLines)(answer, range));
}

function placed(panel, content) {
  const { x, y, w, h: rows } = panel.gridPos;
  const style = {
    position: "absolute", left: x * CELL.width + CELL.gap, top: y * CELL.height,
    width: w * CELL.width - CELL.gap, height: rows * CELL.height - CELL.gap,
  };
  return h("div", { key: panel.id, id: `panel-${panel.id}`, style }, content);
}

function framed(panel, frames, range, seen) {
  const width = panel.gridPos.w * CELL.width - CELL.gap - 18;
  const height = panel.gridPos.h * CELL.height - CELL.gap - TITLE - 10;
  const component = COMPONENTS[panel.type];
  const content = seen.isEmpty && panel.type !== "stat"
    ? h("div", { style: { textAlign: "center", paddingTop: height / 3 } }, "No data")
    : h(component, { panel, frames, range, width, height, seen });
  const box = {
    background: theme.colors.background.primary, border: `1px solid ${theme.colors.border.weak}`, borderRadius: 2,
    height: "100%", padding: "0 8px",
  };
  return h("div", { style: box }, [
    h("div", { key: "title", style: { height: TITLE, lineHeight: `${TITLE}px`, fontWeight: 500 } }, panel.title),
    h("div", { key: "content" }, content),
  ]);
}

const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

// `answers` maps the id of a panel to the answers to its queries; times are in seconds.
window.draw = async function draw(board, answers, range) {
  const found = [];
  const elements = [];
  for (const panel of board.panels) {
    if (panel.type === "row") {
      elements.push(placed(panel, h("div", { style: { fontWeight: 500, lineHeight: "30px" } }, panel.title)));
      continue;
    }
    const frames = await framesOf(panel, answers[panel.id], range);
    const isEmpty = frames.length === 0 || frames.every((frame) => frame.length === 0);
    const seen = { id: panel.id, title: panel.title, type: panel.type, isEmpty };
    found.push(seen);
    elements.push(placed(panel, framed(panel, frames, range, seen)));
  }
  const height = Math.max(...board.panels.map(({ gridPos }) => gridPos.y + gridPos.h)) * CELL.height;
  document.body.style.cssText = `margin: 0; background: ${theme.colors.background.canvas}; color: ${theme.colors.text.primary};
    font: 14px Inter, Helvetica, Arial, sans-serif; width: ${24 * CELL.width + CELL.gap}px; height: ${height}px`;
  const root = document.createElement("div");
  document.body.append(root);
  createRoot(root).render(h(ui.ThemeContext.Provider, { value: theme }, [h(ui.GlobalStyles, { key: "styles" }), ...elements]));
  const undrawn = () => found.filter(({ type, isEmpty, series }) => type === "timeseries" && !isEmpty && !series);
  for (let tries = 0; tries < 200 && undrawn().length > 0; tries += 1) await pause(100);
  await pause(100);
  for (const seen of found) {
    const box = document.getElementById(`panel-${seen.id}`);
    const cells = [...box.querySelectorAll("[role=cell], [role=columnheader]")];
    seen.isCut = cells.some((cell) => cell.getBoundingClientRect().right > box.getBoundingClientRect().right);
  }
  return found;
};
