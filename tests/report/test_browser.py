"""The page in a real browser: nothing fails in it, and it does what a person asks by mouse, keyboard and touch."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from calibrant import debug
from calibrant.report.page import page_of, page_of_pair, read_run
from calibrant.report.page.numbers import MINUS
from tests.debug.nets import chain, samples
from tests.report.large import large
from tests.report.runs import HOSTILE, hostile, saved
from tests.report.test_pair import coarse

pytest.importorskip("jinja2", reason="the page is made with the extra 'report'")
pytest.importorskip("plotly", reason="the page is made with the extra 'report'")
browsers = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

PATH = next(
    (p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None
)

pytestmark = pytest.mark.skipif(PATH is None, reason="no chromium is installed")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browsers.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=PATH, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("run"))


@contextmanager
def opened(chromium: Any, file: Path, **options: Any) -> Iterator[Any]:
    """Open a page offline; at the end nothing was said on the console, and nothing asked of the network."""
    context = chromium.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
    context.set_offline(True)
    page = context.new_page()
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(file.as_uri())
    try:
        yield page
        assert said == []
        assert [url for url in asked if not url.startswith(("data:", "blob:"))] == [file.as_uri()]
    finally:
        context.close()


def drawn(page: Any) -> None:
    """Go through the page, so that every chart is drawn."""
    for place in page.query_selector_all("figure > .chart"):
        place.scroll_into_view_if_needed()
        page.wait_for_function("p => p.dataset.drawn === 'yes'", arg=place)


def unfolded(page: Any, section: str) -> None:
    """Click on the fold of a section. Charts are drawn first: what moves below the mouse is not clicked on."""
    drawn(page)
    page.locator(f"{section} summary").click()
    page.wait_for_function("s => document.querySelector(s + ' details').open", arg=section)


def test_every_chart_is_drawn_and_has_a_table(chromium: Any, folder: Path) -> None:
    with opened(chromium, folder / "report.html") as page:
        drawn(page)
        count = page.locator("figure > .chart").count()
        assert count >= 5
        assert page.locator("figure > .chart svg.main-svg >> nth=0").count() == 1
        assert page.locator("figure > .chart[role=img][aria-label]").count() == count
        assert page.locator("#origins table, #accumulated table, #sensitivity table").count() == 3


def test_a_click_opens_the_card_of_a_layer(chromium: Any, folder: Path) -> None:
    with opened(chromium, folder / "report.html") as page:
        first = page.locator("#card h3").inner_text()
        layer = page.locator(".node.layer:not(.open)").first
        name = layer.get_attribute("aria-label").split(",")[0]
        layer.click()
        assert page.locator("#card h3").inner_text() == name != first
        assert page.locator("#card").get_by_text("Where its error comes from").count() == 1
        assert page.locator("#card h5", has_text="Weights before and after").count() == 1
        assert page.locator("#card h5", has_text="Values, and the ranges").count() >= 1
        drawn(page)
        page.locator("#card .close").click()
        assert page.locator("#card").is_hidden()


def test_the_graph_works_by_keyboard(chromium: Any, folder: Path) -> None:
    with opened(chromium, folder / "report.html") as page:
        page.locator("[data-zoom=fit]").focus()
        page.keyboard.press("Tab")
        assert "node" in page.evaluate("document.activeElement.getAttribute('class')")
        page.keyboard.press("Home")
        assert page.evaluate("document.activeElement.id") == "n0"
        page.keyboard.press("ArrowRight")
        second = page.evaluate("document.activeElement.getAttribute('aria-label')")
        assert page.locator(".node[tabindex='0']").count() == 1
        page.keyboard.press("Enter")
        assert page.locator("#card h3").inner_text() == second.split(",")[0]
        assert page.evaluate("document.activeElement.id") == "card"
        page.keyboard.press("Escape")
        assert page.evaluate("document.activeElement.getAttribute('aria-label')") == second
        before = page.locator("#graph").get_attribute("viewBox")
        page.keyboard.press("+")
        assert page.locator("#graph").get_attribute("viewBox") != before
        page.keyboard.press("0")
        assert page.locator("#graph").get_attribute("viewBox") == before


def test_all_names_below_nodes_have_one_size(chromium: Any, folder: Path) -> None:
    with opened(chromium, folder / "report.html") as page:
        size = "all => [...new Set(all.map(t => getComputedStyle(t).fontSize))]"
        assert page.locator(".node.small .name").count() > 0
        assert len(page.locator(".node .name").evaluate_all(size)) == 1


def test_zoom_by_wheel_and_move_by_drag(chromium: Any, folder: Path) -> None:
    with opened(chromium, folder / "report.html") as page:
        graph = page.locator("#graph")
        graph.scroll_into_view_if_needed()
        page.locator(".node.layer").first.click()
        page.wait_for_function(
            "new Promise((done) => setTimeout(() => done(true), 600))"
        )  # it scrolls
        box = graph.bounding_box()
        wide = float(graph.get_attribute("viewBox").split()[2])
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.mouse.wheel(0, -300)
        page.wait_for_function(
            "w => Number(document.getElementById('graph').getAttribute('viewBox').split(' ')[2]) < w",
            arg=wide,
        )
        left = float(graph.get_attribute("viewBox").split()[0])
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] / 2 - 80, box["y"] + box["height"] / 2, steps=4)
        page.mouse.up()
        assert float(graph.get_attribute("viewBox").split()[0]) > left


def test_search_finds_and_opens(chromium: Any, folder: Path) -> None:
    with opened(chromium, folder / "report.html") as page:
        page.fill("#search", "add")
        hits = page.locator("#found button").count()
        assert hits == page.locator(".node.hit").count() >= 1
        page.press("#search", "Enter")
        assert page.locator("#card h3").inner_text().startswith("Add ")
        page.fill("#search", "no such node")
        assert "No node has this" in page.locator("#found").inner_text()
        page.fill("#search", "")
        assert page.locator("#found").is_hidden()


def test_another_colouring_changes_colours_and_what_is_said(chromium: Any, folder: Path) -> None:
    with opened(chromium, folder / "report.html") as page:
        before = page.locator(".node.layer").first.get_attribute("aria-label")
        page.select_option("#way", "1")
        after = page.locator(".node.layer").first.get_attribute("aria-label")
        assert before != after
        assert "SQNR" in after


def test_tables_sort_and_names_open_cards(chromium: Any, folder: Path) -> None:
    with opened(chromium, folder / "report.html") as page:
        unfolded(page, "#sensitivity")
        head = page.locator("#sensitivity th", has_text="Loss").first
        head.locator("button").click()
        assert head.get_attribute("aria-sort") == "ascending"
        texts = page.locator("#sensitivity tbody td:nth-child(5)").all_inner_texts()
        values = [float(t.replace(MINUS, "-")) for t in texts]
        assert values == sorted(values)
        link = page.locator("#sensitivity tbody button.link").first
        name = link.inner_text()
        link.click()
        assert page.locator("#card h3").inner_text().endswith(name)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"color_scheme": "dark"},
        {"viewport": {"width": 360, "height": 760}, "has_touch": True, "is_mobile": True},
    ],
    ids=["light", "dark", "narrow"],
)
def test_it_fits_the_screen_and_can_be_read(chromium: Any, folder: Path, options: dict) -> None:
    with opened(chromium, folder / "report.html", **options) as page:
        drawn(page)
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        assert page.screenshot(full_page=True)
        low = page.evaluate(CONTRAST)
        assert low == []


#: Texts whose contrast with what is behind them is below 4.5 (WCAG 2.2, 1.4.3), those of the graph too.
CONTRAST = """() => {
  const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const rgb = (c) => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = c; canvas.fillRect(0, 0, 1, 1); return [...canvas.getImageData(0, 0, 1, 1).data]; };
  const light = ([r, g, b]) => { const f = (v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; return 0.2126 * f(r) + 0.7152 * f(g) + 0.0722 * f(b); };
  const ratio = (a, b) => { const [x, y] = [light(a), light(b)].sort((p, q) => q - p); return (x + 0.05) / (y + 0.05); };
  const behind = (e) => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor); if (c[3] > 200) return c; } return [255, 255, 255]; };
  const low = [];
  for (const e of document.querySelectorAll('p, h1, h2, h3, h4, h5, li, td, th, dt, dd, b, span, a, button, summary, figcaption, code, label')) {
    if (!e.textContent.trim() || !e.getClientRects().length || e.closest('.chart')) continue;
    const r = ratio(rgb(getComputedStyle(e).color), behind(e));
    if (r < 4.5) low.push(e.tagName + ' ' + e.textContent.trim().slice(0, 30) + ' ' + r.toFixed(2));
  }
  for (const t of document.querySelectorAll('.node text:not(.name)')) {
    const r = ratio(rgb(getComputedStyle(t).fill), rgb(getComputedStyle(t.parentElement.querySelector('rect')).fill));
    if (r < 4.5) low.push('node ' + t.textContent + ' ' + r.toFixed(2));
  }
  return low;
}"""


#: What a screen reader would not know what to say of: controls, graph nodes and charts without a name, tables without a name or
#: heads, headings that skip a level, ids that occur twice.
NAMELESS = """() => {
  const bad = [];
  const name = (e) => (e.getAttribute('aria-label') || '').trim()
    || (e.getAttribute('aria-labelledby') || '').split(' ').map((i) => document.getElementById(i)?.textContent || '').join('').trim()
    || [...(e.labels || [])].map((l) => l.textContent).join('').trim()
    || e.textContent.trim() || e.getAttribute('title') || e.querySelector('title')?.textContent || '';
  for (const e of document.querySelectorAll('button, a, input, select, summary, [role=button], [tabindex="0"]')) {
    const own = e.tagName === 'INPUT' || e.tagName === 'SELECT';
    const said = own ? (e.getAttribute('aria-label') || [...e.labels].map((l) => l.textContent).join('')) : name(e);
    if (!said.trim()) bad.push('no name: ' + e.outerHTML.slice(0, 60));
  }
  for (const e of document.querySelectorAll('figure > .chart')) {
    const role = e.getAttribute('role') || e.closest('[role]')?.getAttribute('role');
    if (role !== 'img' || !name(e)) bad.push('chart: ' + e.id);
  }
  for (const e of document.querySelectorAll('table')) {
    if (!(e.caption?.textContent || e.getAttribute('aria-label') || '').trim()) bad.push('no caption: ' + e.textContent.trim().slice(0, 30));
    if (!e.querySelector('th')) bad.push('no heads: ' + e.textContent.trim().slice(0, 30));
  }
  let level = 0;
  for (const h of document.querySelectorAll('h1, h2, h3, h4, h5, h6')) {
    if (!h.getClientRects().length) continue;
    const now = Number(h.tagName[1]);
    if (now > level + 1) bad.push('heading skips: ' + h.textContent.trim().slice(0, 30));
    level = now;
  }
  const ids = [...document.querySelectorAll('[id]')].map((e) => e.id);
  bad.push(...ids.filter((id, i) => ids.indexOf(id) !== i).map((id) => 'twice: ' + id));
  if (!document.documentElement.lang || !document.title) bad.push('no language or title');
  return bad;
}"""


@pytest.mark.slow
def test_everything_has_a_name_that_can_be_read_aloud(chromium: Any, folder: Path) -> None:
    with opened(chromium, folder / "report.html") as page:
        drawn(page)
        assert page.evaluate(NAMELESS) == []
        page.locator(".node.layer").first.click()
        assert page.evaluate(NAMELESS) == []


def test_print_shows_all_of_it(chromium: Any, folder: Path, tmp_path: Path) -> None:
    with opened(chromium, folder / "report.html", color_scheme="dark") as page:
        page.pdf(path=tmp_path / "page.pdf", format="A4")
        assert (tmp_path / "page.pdf").stat().st_size > 20_000
        page.emulate_media(media="print")
        page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
        assert page.locator("main > section > details:not([open])").count() == 0
        charts = page.locator("figure > .chart")
        assert page.locator("figure > .chart[data-drawn]").count() == charts.count()
        assert (
            page.evaluate("getComputedStyle(document.body).backgroundColor")
            == "rgb(255, 255, 255)"
        )
        page.evaluate("window.dispatchEvent(new Event('afterprint'))")
        assert page.locator("details[data-folded]").count() == 0


def test_hostile_names_run_nothing(chromium: Any, tmp_path: Path) -> None:
    result, shown = hostile()
    result.save(tmp_path, texts=shown, report=True)
    with opened(chromium, tmp_path / "report.html") as page:
        page.locator(".node.layer").first.click()
        assert HOSTILE in page.locator("#card h3").inner_text()
        drawn(page)
        page.hover(".node.layer >> nth=0")
        assert page.evaluate("window.hurt") is None
        assert page.locator("img").count() == 0


@pytest.mark.slow
def test_a_page_of_two_runs_shows_both_on_a_card(chromium: Any, tmp_path: Path) -> None:
    result, shown = coarse()
    result.save(tmp_path / "rough", texts=shown)
    saved(tmp_path / "fine")
    pair = (read_run(tmp_path / "fine", "fine"), read_run(tmp_path / "rough", "rough"))
    (tmp_path / "both.html").write_text(page_of_pair(*pair), encoding="utf-8")
    for scheme in ("light", "dark"):
        with opened(chromium, tmp_path / "both.html", color_scheme=scheme) as page:
            page.locator(".node.layer").first.click()
            assert page.locator("#card h4.run").all_inner_texts() == ["fine", "rough"]
            drawn(page)
            assert page.evaluate(CONTRAST) == []


@pytest.mark.slow
def test_a_page_of_two_thousand_layers_opens_at_once(chromium: Any, tmp_path: Path) -> None:
    page_file = tmp_path / "large.html"
    page_file.write_text(page_of(large(2000)), encoding="utf-8")
    assert page_file.stat().st_size < 16e6
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    session = context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})  # others may use the machine
    page.goto(page_file.as_uri())
    found = {m["name"]: m["value"] for m in session.send("Performance.getMetrics")["metrics"]}
    assert found["TaskDuration"] < 2.5  # 1.3 s of processor time, on a machine of 2026
    page.fill("#search", "conv1999")
    page.press("#search", "Enter")
    assert page.locator("#card h3").inner_text().endswith("conv1999")
    page.locator("[data-zoom=in]").click(click_count=12)
    assert page.locator(".node .name").count() < 400
    unfolded(page, "#sensitivity")
    assert page.locator("#sensitivity tbody tr").count() == 60
    page.locator("#sensitivity .all").click()
    assert page.locator("#sensitivity tbody tr").count() == 2000
    context.close()


def test_a_run_of_the_debug_tool_opens(chromium: Any, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pictures are drawn with the extra 'debug'")
    debug.runall(chain(v1=0.1), samples(), tmp_path, node_type="weight")
    file = tmp_path / "report.html"
    file.write_text(page_of(read_run(tmp_path)), encoding="utf-8")
    with opened(chromium, file, color_scheme="dark") as page:
        assert page.locator("#network svg").is_visible()
        drawn = "i => i.complete && i.naturalWidth > 0"
        pictures = page.locator("#looked img")
        assert pictures.count() > 3
        for i in range(pictures.count()):
            pictures.nth(i).scroll_into_view_if_needed()
            page.wait_for_function(
                f"n => ({drawn})(document.querySelectorAll('#looked img')[n])", arg=i
            )
