"""The look of the report's page."""

STYLE = """
:root { --ink: #1c2430; --soft: #5d6b7e; --line: #dfe5ec; --paper: #f4f6f9; --card: #fff;
  --bar: #4a7bd0; --good: #23834f; --bad: #c0392b; --warn: #b7791f }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e9f0; --soft: #97a5b8; --line: #303a48; --paper: #141a22; --card: #1d2530;
    --bar: #5f8fe0; --good: #4cbf82; --bad: #ec7063; --warn: #e0a94a }
}
* { box-sizing: border-box }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif }
main { max-width: 1120px; margin: 0 auto; padding: 32px 24px 64px }
h1 { font-size: 26px; margin: 0 } h2 { font-size: 19px; margin: 40px 0 4px } h3 { font-size: 15px; margin: 0 0 10px }
p { margin: 4px 0 14px; color: var(--soft); max-width: 80ch }
code, .name { font-family: ui-monospace, "SF Mono", Menlo, Consolas, monospace; font-size: 12px; overflow-wrap: anywhere }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: 12px; margin: 22px 0 }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 12px 14px;
  border-top: 3px solid var(--line) }
.tile b { display: block; font-size: 24px; line-height: 1.25; font-variant-numeric: tabular-nums
}
.tile span { color: var(--soft); font-size: 13px }
.good { border-top-color: var(--good) } .bad { border-top-color: var(--bad) } .warn { border-top-color: var(--warn) }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(330px, 1fr)); gap: 14px }
.grid.single { grid-template-columns: repeat(auto-fill, minmax(180px, 1fr)) }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 12px }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 10px }
figure { margin: 0 }
figure img { width: 100%; height: 150px; object-fit: contain;
  background: var(--paper); border-radius: 6px; image-rendering: auto }
img.small { image-rendering: pixelated }
figcaption { font-size: 12px; color: var(--soft); margin-top: 6px } figcaption b { color: var(--ink) }
.tag { display: inline-block; font-size: 12px; padding: 1px 8px; border-radius: 9px; background: var(--paper); margin: 0 6px 8px 0;
  color: var(--soft) }
.tag.bad { background: var(--bad); color: #fff } .tag.warn { background: var(--warn); color: #fff }
.columns { columns: 320px; column-gap: 14px } .columns .card { break-inside: avoid; margin-bottom: 14px }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: 13px }
td, th { padding: 4px 8px; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top }
tr:last-child td { border-bottom: 0 }
th { color: var(--soft); font-weight: 500 } td.number, th.number { text-align: right; white-space: nowrap }
.bar { display: grid; grid-template-columns: minmax(70px, 32%) 1fr 64px; gap: 8px; align-items: center; font-size: 13px }
.bar i { display: block; height: 10px; border-radius: 5px; background: var(--bar); min-width: 2px
}
.bar span:last-child { text-align: right; font-variant-numeric: tabular-nums }
.bar span:first-child { overflow: hidden; text-overflow: ellipsis; white-space: nowrap }
"""
