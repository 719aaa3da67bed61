"""The report's style sheet: light, dark and print."""

STYLE = """
:root { color-scheme: light dark;
  --paper: #ffffff; --ink: #1c2430; --soft: #5b6675; --line: #dde2e8; --shade: #f5f7f9;
  --train: #2b6cb0; --held: #b7521a; --good: #1f7a4d; --good-shade: #e9f5ee; --warn: #8a5a00; --warn-shade: #fdf5e1; }
@media (prefers-color-scheme: dark) { :root {
  --paper: #14181d; --ink: #e3e7ec; --soft: #9aa5b1; --line: #2e363f; --shade: #1b2127;
  --train: #6aa9ec; --held: #f0955b; --good: #68c597; --good-shade: #17291f; --warn: #e3b95b; --warn-shade: #2a2415; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "Helvetica Neue", Arial, "Liberation Sans", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 40px 32px 48px; }
h1 { font-size: 27px; line-height: 1.2; margin: 0; font-weight: 650; letter-spacing: -.01em; }
h2 { font-size: 18px; margin: 44px 0 12px; padding-bottom: 6px;
  border-bottom: 1px solid var(--line); font-weight: 620; }
h3 { font-size: 13px; margin: 22px 0 8px; color: var(--soft); font-weight: 600; }
p { margin: 8px 0; max-width: 78ch; }
.kind, .note, figcaption { color: var(--soft); }
.kind { margin: 0 0 2px; font-size: 13px; }
.note { font-size: 13px; }
.facts { display: flex; flex-wrap: wrap; gap: 10px 34px; margin: 20px 0 0; }
.facts dt { color: var(--soft); font-size: 12px; }
.facts dd { margin: 0; font-variant-numeric: tabular-nums; }
.notice { margin: 22px 0 0; padding: 10px 16px; border-left: 3px solid var(--warn);
  background: var(--warn-shade); font-size: 14px; }
.notice.calm { border-color: var(--line); background: var(--shade); }
.notice h2 { font-size: 14px; margin: 0; padding: 0; border: 0; }
.notice ul { margin: 2px 0; padding-left: 18px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 14px; }
th { text-align: left; font-weight: 600; }
td, th { padding: 6px 14px 6px 0; border-bottom: 1px solid var(--line); vertical-align: top; overflow-wrap: anywhere; }
.numbers { min-width: 60%; }
.numbers th, .numbers td { padding: 7px 14px; overflow-wrap: normal; }
.numbers td, .numbers thead th + th { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.numbers thead th { color: var(--soft); font-size: 12.5px; font-weight: 600; vertical-align: bottom; }
.numbers tbody th { font-weight: 400; white-space: nowrap; }
.numbers tr.model th { font-weight: 650; }
.numbers tr.winner { background: var(--good-shade); }
.numbers .best { color: var(--good); font-weight: 680; }
.badge { margin-left: 8px; padding: 1px 7px; border-radius: 9px; font-size: 11px; font-weight: 600; color: var(--good);
  border: 1px solid var(--good); }
figure { margin: 0; break-inside: avoid; }
figcaption { font-size: 13px; }
img { display: block; max-width: 100%; height: auto; border: 1px solid var(--line); background: #fff; }
.large { margin: 14px 0; }
.large img { max-height: 1000px; }
.large img.small { image-rendering: pixelated; }
.large figcaption { margin-top: 6px; }
.strip { display: grid; grid-template-columns: repeat(auto-fill, minmax(190px, 1fr)); gap: 12px; align-items: start; }
.strip img { width: 100%; }
.groups { display: flex; flex-wrap: wrap; gap: 0 26px; }
.groups section { flex: 1 1 100%; }
.groups .single { flex: 0 1 calc((100% - 52px) / 3); min-width: 300px; }
.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); gap: 18px 26px; }
.panels figcaption { display: flex; justify-content: space-between; gap: 10px; }
.panels figcaption b { color: var(--ink); font-weight: 600; overflow-wrap: anywhere; }
.panels figcaption span { text-align: right; font-variant-numeric: tabular-nums; }
svg { display: block; width: 100%; height: auto; }
svg text { font-size: 11.5px; fill: var(--soft); font-variant-numeric: tabular-nums; }
svg .y { text-anchor: end; } svg .x { text-anchor: middle; }
svg path { fill: none; vector-effect: non-scaling-stroke; }
svg .grid { stroke: var(--line); } svg .axis { stroke: var(--soft); }
svg .curve { stroke-width: 1.7; stroke-linejoin: round; } svg .raw { stroke-width: 1; opacity: .32; }
svg .train .curve, svg .train .raw { stroke: var(--train); } svg .train .dot { fill: var(--train); }
svg .held-out .curve { stroke: var(--held); } svg .held-out .dot { fill: var(--held); }
svg .best { fill: none; stroke: var(--good); stroke-width: 1.8; }
svg .reference { stroke: var(--soft); stroke-dasharray: 5 4; }
svg .invalid { stroke: #d03030; stroke-width: 1.6; }
.key { max-width: none; display: flex; flex-wrap: wrap; gap: 4px 22px; margin: 0 0 14px;
  font-size: 13px; color: var(--soft); }
.key svg { display: inline-block; width: 26px; height: 10px; vertical-align: baseline; }
.settings { columns: 3 300px; column-gap: 34px; }
.settings section { break-inside: avoid; padding-bottom: 16px; }
.settings h3 { margin: 0 0 4px; padding-top: 2px; }
.settings table { width: 100%; font-size: 13px; }
.settings td, .settings th { padding: 3px 8px 3px 0; }
.settings th { font-weight: 400; color: var(--soft); width: 46%; }
.settings td { font-family: ui-monospace, "SF Mono", "DejaVu Sans Mono", Consolas, monospace; font-size: 12px; }
footer { margin-top: 48px; padding-top: 10px; border-top: 1px solid var(--line); color: var(--soft); font-size: 13px; }
@media print {
  :root { color-scheme: light; --paper: #fff; --ink: #000; --soft: #444; --line: #ccc; --shade: #fff;
    --train: #1f5fa8; --held: #a8440e; --good: #14633c; --good-shade: #eef6f1; --warn: #7a4f00; --warn-shade: #fff; }
  @page { margin: 14mm; }
  main { max-width: none; padding: 0; zoom: .74; }
  h2, h3, .key { break-after: avoid; }
  tr, .notice { break-inside: avoid; }
  .scroll { overflow: visible; }
  .strip { grid-template-columns: repeat(6, 1fr); }
  .large img { max-height: 170mm; }
  .groups { display: block; }
  .groups .single { display: inline-block; width: 32%; min-width: 0; margin-right: 1%; }
  .panels { grid-template-columns: repeat(3, 1fr); gap: 14px 20px; }
  .single .panels { grid-template-columns: 1fr; }
  .panels figcaption { font-size: 12px; }
  svg text { font-size: 15px; }
}
"""
