// Draws one dashboard as Grafana would, with Grafana's own components: BigValue, TimeSeries, Table, the value formats,
// field overrides and transformations of @grafana/ui and @grafana/data. Two things are not in those packages and are
// imitated here: the frame around a panel, and the heatmap.
// window.DASHBOARD is the dashboard's JSON, window.DATA the answers of Prometheus by panel id, window.RANGE the time range.
import React from 'react';
import 'uplot/dist/uPlot.min.css';
import { createRoot } from 'react-dom/client';
import { lastValueFrom } from 'rxjs';
import {
  ArrayVector, FieldColorModeId, FieldConfigOptionsRegistry, FieldType, ThresholdsMode, applyFieldOverrides, createTheme,
  dateTime, fieldReducers, getDisplayProcessor, getFieldDisplayName, getValueFormat, reduceField, standardTransformers,
  standardTransformersRegistry, ThemeContext, toDataFrame, transformDataFrame,
} from '@grafana/data';
import { BigValue, GlobalStyles, Table, TimeSeries, UPlotChart } from '@grafana/ui';

const theme = createTheme({ colors: { mode: window.MODE || 'dark' } });
const UNIT = 30, GAP = 8, WIDTH = window.WIDTH || 1600;
const cell = WIDTH / 24;
const timeRange = { from: dateTime(window.RANGE[0] * 1000), to: dateTime(window.RANGE[1] * 1000),
  raw: { from: 'now-1h', to: 'now' } };

// Some stand in the list under two names.
const transformers = [...new Map(Object.values(standardTransformers).map((one) => [one.id, one])).values()];
standardTransformersRegistry.setInit(() => transformers.map((transformation) => ({
  id: transformation.id, name: transformation.name, transformation: async () => transformation, editor: () => null,
})));

const legendOf = (format, labels) => format.replace(/\{\{\s*(\w+)\s*\}\}/g, (_, name) => labels[name] ?? '');

function frames(panel) {
  const out = [];
  panel.targets.forEach((target, index) => {
    const results = window.DATA[panel.id][index];
    if (target.format === 'table') {
      const names = [...new Set(results.flatMap((one) => Object.keys(one.metric)))].sort();
      const value = panel.targets.length > 1 ? `Value #${target.refId}` : 'Value';
      out.push(toDataFrame({ refId: target.refId, fields: [
        { name: 'Time', type: FieldType.time, values: results.map((one) => one.value[0] * 1000) },
        ...names.map((name) => ({ name, type: FieldType.string, values: results.map((one) => one.metric[name] ?? '') })),
        { name: value, type: FieldType.number, values: results.map((one) => Number(one.value[1])) },
      ] }));
      return;
    }
    for (const one of results) {
      out.push(toDataFrame({ refId: target.refId, fields: [
        { name: 'Time', type: FieldType.time, values: one.values.map((point) => point[0] * 1000) },
        { name: 'Value', type: FieldType.number, labels: one.metric, values: one.values.map((point) => Number(point[1])),
          config: { displayNameFromDS: legendOf(target.legendFormat, one.metric) } },
      ] }));
    }
  });
  return out;
}

// Steps at even distance with nulls where a scrape is missing, as the data source makes them.
function evenly(frame) {
  const step = window.STEP * 1000, from = window.RANGE[0] * 1000, to = window.RANGE[1] * 1000;
  const [time, value] = frame.fields;
  const at = new Map(time.values.map((moment, index) => [Math.round((moment - from) / step), value.values[index]]));
  const moments = [], values = [];
  for (let index = 0; from + index * step <= to; index++) {
    moments.push(from + index * step);
    values.push(at.has(index) ? at.get(index) : null);
  }
  return { ...frame, length: moments.length, fields: [{ ...time, values: moments }, { ...value, values }] };
}

function configured(panel, data) {
  const { defaults, overrides } = panel.fieldConfig;
  for (const frame of data) {
    for (const field of frame.fields) {
      field.config = { ...structuredClone(defaults), ...field.config };
      // A colour is chosen by the place of a series, so each field needs to know its own.
      field.state = { ...field.state, seriesIndex: data.indexOf(frame) };
      const name = getFieldDisplayName(field, frame, data);
      for (const { matcher, properties } of overrides) {
        const match = matcher.id === 'byName' ? name === matcher.options
          : new RegExp(matcher.options.replace(/^\/|\/$/g, '')).test(name);
        if (!match || field.type === FieldType.time) continue;
        for (const { id, value } of properties) {
          if (id.startsWith('custom.')) field.config.custom = { ...field.config.custom, [id.slice(7)]: value };
          else field.config[id] = value;
        }
      }
    }
  }
  return applyFieldOverrides({ data, fieldConfig: { defaults: {}, overrides: [] }, theme, timeZone: 'utc',
    replaceVariables: (text) => text, fieldConfigRegistry: new FieldConfigOptionsRegistry(() => []) });
}

function Stat({ panel, width, height }) {
  const [frame] = configured(panel, frames(panel).map(evenly));
  if (!frame) return <div style={{ padding: 20, fontSize: 24 }}>no data</div>;
  const field = frame.fields[1];
  const number = reduceField({ field, reducers: ['lastNotNull'] }).lastNotNull;
  const display = (field.display ?? getDisplayProcessor({ field, theme }))(number);
  return <BigValue theme={theme} width={width} height={height} value={display} colorMode="background" graphMode="area"
    justifyMode="center" textMode="value" sparkline={{ x: frame.fields[0], y: field, yMin: 0 }} />;
}

function Lines({ panel, width, height }) {
  const data = configured(panel, frames(panel).map(evenly));
  if (!data.length) return <div style={{ padding: 20 }}>No data</div>;
  return <TimeSeries frames={data} timeRange={timeRange} timeZone="utc" width={width} height={height} theme={theme}
    legend={panel.options.legend} options={panel.options} replaceVariables={(text) => text}
    tweakScale={(options) => options} tweakAxis={(options) => options} />;
}

function Rows({ panel, width, height }) {
  const [state, set] = React.useState(null);
  React.useEffect(() => {
    lastValueFrom(transformDataFrame(panel.transformations, frames(panel)))
      .then((data) => set(configured(panel, data)[0]));
  }, []);
  if (!state) return null;
  const sort = panel.options.sortBy[0];
  if (sort) {
    const by = state.fields.find((field) => getFieldDisplayName(field, state) === sort.displayName);
    const order = by.values.map((value, index) => [value, index]).sort((a, b) => b[0] - a[0]).map((pair) => pair[1]);
    for (const field of state.fields) field.values = order.map((index) => field.values[index]);
  }
  return <Table data={state} width={width - 24} height={height} initialSortBy={[]} cellHeight="sm" noHeader={false}
    ariaLabel={panel.title} />;
}

function Heat({ panel, width, height }) {
  const canvas = React.useRef();
  React.useEffect(() => {
    const draw = canvas.current.getContext('2d');
    const edges = window.DATA[panel.id][0].map((one) => ({ le: Number(one.metric.le === '+Inf' ? Infinity : one.metric.le),
      at: new Map(one.values.map((point) => [point[0], Number(point[1])])) })).sort((a, b) => a.le - b.le);
    const format = getValueFormat(panel.options.yAxis.unit);
    const left = 60, bottom = 22, w = width - left - 8, h = height - bottom - 6;
    const steps = Math.round((window.RANGE[1] - window.RANGE[0]) / window.STEP), row = h / edges.length;
    const { exponent } = panel.options.color;
    let most = 0;
    const counts = edges.map((edge, index) => (time) => Math.max(0,
      (edge.at.get(time) ?? 0) - (index ? edges[index - 1].at.get(time) ?? 0 : 0)));
    const times = Array.from({ length: steps + 1 }, (_, index) => window.RANGE[0] + index * window.STEP);
    for (const time of times) for (const count of counts) most = Math.max(most, count(time));
    draw.font = '12px Inter, sans-serif';
    counts.forEach((count, index) => {
      const top = 6 + h - (index + 1) * row;
      for (const [column, time] of times.entries()) {
        const value = count(time);
        if (value <= 1e-9) continue;
        const part = Math.pow(value / most, exponent);
        // The scheme Oranges, from its light to its dark end (on a dark ground Grafana turns it round).
        const mix = (a, b) => Math.round(a + (b - a) * part);
        draw.fillStyle = `rgb(${mix(60, 255)},${mix(30, 200)},${mix(10, 140)})`;
        draw.fillRect(left + (column * w) / times.length, top + 1, Math.max(1, w / times.length - 1), row - 1);
      }
      if (index % 3 === 0 || edges[index].le === Infinity) {
        const { text, suffix } = edges[index].le === Infinity ? { text: '+Inf', suffix: '' } : format(edges[index].le);
        draw.fillStyle = theme.colors.text.primary;
        draw.textAlign = 'right';
        draw.fillText(text + (suffix ?? ''), left - 6, top + 5);
      }
    });
    draw.textAlign = 'center';
    for (let part = 0; part <= 4; part++) {
      const when = new Date((window.RANGE[0] + ((window.RANGE[1] - window.RANGE[0]) * part) / 4) * 1000);
      draw.fillStyle = theme.colors.text.primary;
      draw.fillText(when.toISOString().slice(11, 16), left + (w * part) / 4 - (part === 4 ? 14 : 0), height - 6);
    }
  }, []);
  return <canvas ref={canvas} width={width} height={height} />;
}

const KINDS = { stat: Stat, timeseries: Lines, table: Rows, heatmap: Heat };

function Panel({ panel }) {
  const { x, y, w, h } = panel.gridPos;
  const place = { position: 'absolute', left: x * cell, top: y * (UNIT + GAP), width: w * cell - GAP,
    height: h * (UNIT + GAP) - GAP, overflow: 'hidden' };
  if (panel.type === 'row') {
    return <div style={{ ...place, fontSize: 18, fontWeight: 500, paddingTop: 4 }}>⌄ {panel.title}</div>;
  }
  const Kind = KINDS[panel.type];
  const head = 32, padding = panel.type === 'stat' ? 0 : 8;
  return <div style={{ ...place, background: theme.colors.background.primary, borderRadius: 2,
    border: `1px solid ${theme.colors.border.weak}` }}>
    <div style={{ height: head, padding: '6px 8px', fontWeight: 500, whiteSpace: 'nowrap' }}>{panel.title} <span
      style={{ color: theme.colors.text.secondary, fontSize: 12 }}>(i)</span></div>
    <div style={{ padding: `0 ${padding}px` }}>
      <Kind panel={panel} width={place.width - 2 * padding - 2} height={place.height - head - padding - 2} />
    </div>
  </div>;
}

function Page() {
  const panels = window.DASHBOARD.panels;
  const height = Math.max(...panels.map(({ gridPos }) => (gridPos.y + gridPos.h) * (UNIT + GAP)));
  return <ThemeContext.Provider value={theme}>
    <GlobalStyles />
    <div style={{ width: WIDTH, padding: 16, boxSizing: 'content-box' }}>
      <div style={{ fontSize: 22, fontWeight: 500, paddingBottom: 8 }}>{window.DASHBOARD.title}</div>
      <div style={{ position: 'relative', height }}>{panels.map((panel) => <Panel key={panel.id} panel={panel} />)}</div>
    </div>
  </ThemeContext.Provider>;
}

createRoot(document.getElementById('root')).render(<Page />);
