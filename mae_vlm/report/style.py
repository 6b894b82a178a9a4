"""The look of the page: light and dark by the reader's own setting, one accent, colours that the colour-blind can tell apart."""

STYLE = """
:root { --ink: #17202c; --soft: #566475; --line: #dde3ea; --paper: #f5f7fa; --card: #ffffff; --grid: #e8edf2;
  --good: #1d7a4a; --good-back: #e7f5ed; --bad: #b3261e; --bad-back: #fdecea; --warn: #92590a; --warn-back: #fdf3e0; --accent: #2458c5;
  --c0: #2458c5; --c1: #c2560c; --c2: #14804f; --c3: #8a3ea8; --c4: #b3261e; --c5: #4b6b8a; --c6: #8a6d0b; --c7: #b0357c }
@media (prefers-color-scheme: dark) { :root { --ink: #e6ebf2; --soft: #9aa8ba; --line: #2d3847; --paper: #10161e; --card: #18202b;
  --grid: #253040; --good: #56c98c; --good-back: #12291e; --bad: #f28b82; --bad-back: #361a18; --warn: #e8b04f; --warn-back: #33270f;
  --accent: #7aa5f8; --c0: #7aa5f8; --c1: #f0995a; --c2: #56c98c; --c3: #c894e0; --c4: #f28b82; --c5: #9fb6cd; --c6: #d8bc55;
  --c7: #ec8fc0 } }
* { box-sizing: border-box }
html { color-scheme: light dark; scroll-behavior: smooth }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif }
main { max-width: 1160px; margin: 0 auto; padding: 36px 24px 72px }
a { color: var(--accent) } :focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; border-radius: 4px }
h1 { font-size: 27px; line-height: 1.2; margin: 0; letter-spacing: -.01em; overflow-wrap: anywhere }
h2 { font-size: 19px; margin: 44px 0 12px } h3 { font-size: 14px; margin: 0 0 2px }
.unit { color: var(--soft); font-weight: 400; font-size: 13px }
p { margin: 4px 0 12px; max-width: 84ch } .soft { color: var(--soft) }
code { font: 12.5px/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; overflow-wrap: anywhere }
nav { display: flex; flex-wrap: wrap; gap: 4px 16px; margin: 14px 0 22px; font-size: 14px } nav a { text-decoration: none }
nav a:hover { text-decoration: underline }
.verdict { border: 1px solid var(--line); border-left: 6px solid var(--good); background: var(--card); border-radius: 12px;
  padding: 18px 22px }
.verdict.fault { border-left-color: var(--bad) } .verdict.warning { border-left-color: var(--warn) }
.verdict > h2 { margin: 0 0 4px; font-size: 21px }
.finding { border-top: 1px solid var(--line); padding: 14px 0 6px; margin-top: 14px }
.finding h3 { font-size: 16px; margin: 0 0 6px } .finding ul { margin: 4px 0 10px; padding-left: 20px } .finding li { margin: 2px 0 }
.finding h4 { margin: 8px 0 0; font-size: 13px; color: var(--soft); font-weight: 600 }
.tag { display: inline-block; font-size: 12.5px; font-weight: 600; padding: 1px 9px; border-radius: 9px; margin-right: 8px;
  background: var(--good-back); color: var(--good); white-space: nowrap }
.tag.fault { background: var(--bad-back); color: var(--bad) } .tag.warning { background: var(--warn-back); color: var(--warn) }
.tag.plain { background: var(--paper); color: var(--soft) }
details { border-top: 1px solid var(--line); margin-top: 12px; padding-top: 10px }
summary { cursor: pointer; color: var(--soft); font-size: 14px } details[open] > summary { margin-bottom: 8px }
.checks { list-style: none; padding: 0; margin: 0; columns: 2; column-gap: 32px; font-size: 14px }
.checks li { break-inside: avoid; padding: 2px 0 2px 22px; position: relative }
.checks li::before { content: "\\2713"; position: absolute; left: 0; color: var(--good); font-weight: 700 }
.checks li.untold::before { content: "?"; color: var(--soft) }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(148px, 1fr)); gap: 12px }
.tile, .card { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 12px 15px }
.tile b { display: block; font-size: 21px; line-height: 1.3; font-variant-numeric: tabular-nums; overflow-wrap: anywhere }
.tile span { color: var(--soft); font-size: 13px }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 430px), 1fr)); gap: 14px }
.card > p { font-size: 13px; color: var(--soft); margin: 0 0 6px }
svg { display: block; width: 100%; height: auto; overflow: visible } svg text { fill: var(--soft); font: 11px system-ui, sans-serif }
svg .grid { stroke: var(--grid); stroke-width: 1 } svg .axis { stroke: var(--line); stroke-width: 1 }
svg path { fill: none; stroke-width: 1.8; stroke-linejoin: round; stroke-linecap: round; vector-effect: non-scaling-stroke }
svg circle { stroke: none } svg circle:hover { r: 5 }
.legend { display: flex; flex-wrap: wrap; gap: 2px 14px; margin: 6px 0 0; padding: 0; list-style: none; font-size: 12.5px }
.legend li { display: flex; align-items: center; gap: 6px } .legend i { width: 18px; height: 0; border-top: 3px solid; border-radius: 2px }
.legend i.dashed { border-top-style: dashed } .legend b { font-variant-numeric: tabular-nums; font-weight: 600 }
.strip { display: flex; gap: 14px; overflow-x: auto; padding: 2px 2px 12px; scroll-snap-type: x proximity }
.strip figure { margin: 0; flex: 0 0 auto; scroll-snap-align: start; background: var(--card); border: 1px solid var(--line);
  border-radius: 12px; padding: 10px }
.strip img { display: block; max-height: 560px; max-width: 420px; height: auto; width: auto; border-radius: 6px }
figcaption { font-size: 13px; color: var(--soft); margin-top: 6px }
.scroll { overflow-x: auto } table { border-collapse: collapse; width: 100%; font-size: 13.5px; font-variant-numeric: tabular-nums }
td, th { padding: 5px 10px; text-align: left; border-bottom: 1px solid var(--grid); vertical-align: top }
tr:last-child > * { border-bottom: 0 } th { color: var(--soft); font-weight: 500 } .number { text-align: right; white-space: nowrap }
tr.best > * { font-weight: 650; background: var(--good-back) }
.pair { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 430px), 1fr)); gap: 14px; align-items: start }
pre { margin: 0; font: 12px/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; overflow-x: auto; white-space: pre }
footer { margin-top: 48px; color: var(--soft); font-size: 13px }
@media (max-width: 640px) { .checks { columns: 1 } main { padding: 22px 14px 48px } }
@media print { body { background: #fff } .card, .tile, .verdict { break-inside: avoid } nav { display: none } }
"""
