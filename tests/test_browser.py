"""Reports in a real Chromium: nothing in its console, nothing from a network, the filter works, a phone can show them."""

import json
import re
import shutil

import pytest
from conftest import command, feedback_file
from jinja2 import Environment, PackageLoader

from drift.report.html import report_of
from drift.report.page import render

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [pytest.mark.slow, pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")]
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-sync"]
HOSTILE = '<script>document.title = "taken over"</script><img src="http://127.0.0.1:9/x.png" onerror="alert(1)">'


@pytest.fixture(scope="module")
def chromium():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def study(cache, tmp_path_factory):
    """A sweep of two methods with two seeds over a log with markup in it, one member of it killed."""
    folder = tmp_path_factory.mktemp("browser")
    log = feedback_file(folder / "log.jsonl", dsat=12, sat=12)
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    for row in rows:
        row["prompt"][0]["content"] += HOSTILE
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = command(
        "-m", "model=tiny", f"model.cache_dir={cache}", "data=jsonl", f"data.path={log}", "method=drift,spin", "seed=0,1",
        "train.examples_per_step=2", "iterations=1", "examples_per_iteration=6", "sampler.max_new_tokens=8",
        "evaluation.heldout.share=0.3", "intake.near_duplicates=null", "intake.leakage=keep",
        "evaluation.heldout.num_sampled_prompts=2",
        f"store.dir={folder}/store",
        f"hydra.sweep.dir={folder}/study",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    killed = folder / "study" / "3-spin" / "run.json"
    state = json.loads(killed.read_text())
    killed.write_text(json.dumps(state | {"status": "running", "points": state["points"][:1]}))
    return report_of(folder / "study")


@pytest.fixture
def page(chromium, study):
    """The study's page, with all that the browser complained of and all that it asked for in `said` and `asked`."""
    page = chromium.new_page()
    page.said, page.asked = [], []
    page.on("console", lambda message: page.said.append(message.text))
    page.on("pageerror", lambda error: page.said.append(str(error)))
    page.on("dialog", lambda dialog: page.said.append(dialog.message))
    page.on("request", lambda request: page.asked.append(request.url))
    page.goto(study.as_uri())
    yield page
    page.close()


def test_a_report_is_quiet_self_contained_and_shows_markup_as_text(page, study):
    assert page.said == [] and page.asked == [study.as_uri()]
    assert page.title().startswith("study of 4 runs: drift, spin on jsonl (log.jsonl) with tiny, 20") and study.stat().st_size < 8e6
    assert page.locator("#samples").get_by_text("document.title").count() > 0


def test_the_filter_shows_matching_samples_and_their_number(page):
    boxes = page.locator("#samples > div")
    total, shown = boxes.count(), page.locator("#samples > div:visible")
    assert shown.count() == total and page.locator("#shown").inner_text() == f"{total} of {total}"
    asked = re.search(r"(Question|Wish) \d+\?", boxes.first.inner_text()).group()
    page.fill("#search", asked.upper())
    some = shown.count()
    assert 0 < some < total and page.locator("#shown").inner_text() == f"{some} of {total}"
    assert all(asked in text for text in shown.all_inner_texts())
    page.fill("#search", "")
    page.select_option("#kind", "training")
    assert {text.split()[0] for text in shown.all_inner_texts()} == {"training"}
    page.select_option("#remark", "differ")  # there is no verdict on pairs
    assert shown.count() == 0
    page.select_option("#remark", "")
    page.select_option("#kind", "")
    assert shown.count() == total
    page.fill("#search", "nobody said this")
    assert shown.count() == 0


def test_start_and_trained_policies_answer_held_out_prompts_side_by_side(page):
    page.select_option("#kind", "heldout")
    for text in page.locator("#samples > div:visible").all_inner_texts():
        assert re.search(r"(?s)(liked|disliked).*start model \d+ words.*distinct-2 \d.*drift \d+ words.*spin \d+ words", text), text


def test_the_main_tables_fit_a_page_of_1200_pixels(page):
    page.set_viewport_size({"width": 1200, "height": 800})
    tables = page.evaluate("[...document.querySelectorAll('.main .wide')].map(box => box.scrollWidth - box.clientWidth)")
    assert len(tables) >= 2 and set(tables) == {0}
    page.set_viewport_size({"width": 1280, "height": 720})


def test_a_phone_scrolls_tables_and_not_the_page(page):
    page.set_viewport_size({"width": 390, "height": 800})
    wide = page.evaluate("document.documentElement.scrollWidth")
    assert wide <= 390, wide


def test_a_member_that_was_killed_is_in_the_report(page):
    text = page.locator("body").inner_text()
    assert "running, or killed" in text and "spin: only 1 of 2 runs has evaluated a trained policy so far" in text


def test_unescaped_text_in_a_page_neither_runs_nor_loads_anything(chromium, tmp_path):
    """As a picture, which a page takes as it is."""
    slipped = '<script>document.title = "taken over"</script><img src="http://127.0.0.1:9/x.png" onerror="document.title = 1">'
    values = {"verdict": [], "command": "", "tables": [], "examples": [], "pictures": [("a picture", slipped)]}
    page, said, asked = chromium.new_page(), [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("requestfailed", lambda request: asked.append((request.url, request.failure)))
    (tmp_path / "page.html").write_text(render("describe.html.j2", title="ours", **values))
    page.goto((tmp_path / "page.html").as_uri())
    assert page.title() == "ours" and len(said) >= 2 and all("Content Security Policy" in line for line in said), said
    assert all(why == "csp" for _, why in asked), asked
    page.close()


def test_many_samples_are_shown_a_page_at_a_time_and_the_filter_searches_all(chromium, tmp_path):
    items = [{"kind": "training", "prompt": f"Prompt {i}.", "turns": 1, "logged": [], "replies": []} for i in range(45)]
    environment = Environment(loader=PackageLoader("drift.report", "."), autoescape=True)
    file = tmp_path / "samples.html"
    file.write_text(environment.from_string('{% from "browser.html.j2" import browser %}{{ browser(items) }}').render(items=items))
    page = chromium.new_page()
    page.goto(file.as_uri())
    shown, more = page.locator("#samples > div:visible"), page.locator("#more")
    for count in (20, 40, 45):
        assert shown.count() == count and page.locator("#shown").inner_text() == "45 of 45"
        assert more.is_visible() == (count < 45)
        if count < 45:
            more.click()
    page.fill("#search", "Prompt 44.")
    assert shown.all_inner_texts() == ["training Prompt 44."] and not more.is_visible()
    page.fill("#search", "")
    assert shown.count() == 20
    page.close()
