"""What a page and its pictures let through: names of runs are text, and a browser runs nothing but the page's own script."""

from test_report import state, study

from drift.report import plots
from drift.statistics import Interval

LABELS = [
    "plain",
    "$x^{$",
    "$x$",
    "_private",
    "100 % & <b>",
    "1²2",
    "a\\$b",
    "--><script>alert(1)</script>",
    "half \ud800 bell \x07 \x00",
    "line\nend",
]


def test_any_name_is_plain_text_in_plots():
    interval = Interval(mean=1.0, low=0.5, high=2.0, over="")
    svg = plots.by_iteration({label: [("start", interval)] for label in LABELS}, "$\\frac{$")
    rows = [{"iteration": 1.0, "step": float(i), "loss": 1.0} for i in range(3)]
    for picture in (svg, plots.dynamics({label: [rows] for label in LABELS})):
        for shown in (
            "plain",
            "$x^{$",
            "$x$",
            "_private",
            "100 % &amp; &lt;b&gt;",
            "1²2",
            "a\\$b",
            "--&gt;&lt;script&gt;",
            "line end",
        ):
            assert f">{shown}<" in picture.replace("\N{ZERO WIDTH SPACE}", "") or shown in picture
        assert "<script" not in picture and "style" not in picture.replace("font-style", "")


def test_a_page_allows_its_own_style_and_script_and_nothing_else(tmp_path):
    text = study(tmp_path, [state("one", 0, 0.1)])
    policy = text.split('Content-Security-Policy" content="')[1].split('"')[0]
    assert "default-src &#39;none&#39;; style-src &#39;sha256-" in policy and "unsafe" not in policy and "script-src" not in policy
    assert text.count("<style") == 1 and "<script" not in text and " style=" not in text and "onclick" not in text
