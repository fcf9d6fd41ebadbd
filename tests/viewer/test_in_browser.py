"""The report in a browser: it loads, plays, follows its controls, and shows names of anyone without running them."""

import time

import numpy as np
import pytest

from meddlr_greedy.viewer import page as page_module
from meddlr_greedy.viewer.page import Row
from tests.helpers.browser import browser
from tests.helpers.viewer_pages import PSNR, SSIM, WHITE, gray, levels_of, movies, page_of, score_rows, shown

PATIENCE_S = 60  # how long a test waits for what must come; only one that fails needs it

PIXELS = """
return [...document.querySelectorAll(arguments[0])].map((canvas) => {
  const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d", { willReadFrequently: true });
  copy.drawImage(canvas, 0, 0);
  const { data } = copy.getImageData(0, 0, canvas.width, canvas.height);
  return [canvas.height, canvas.width, Array.from(data.filter((_, i) => i % 4 === 0))];
})"""
# Of all images at the same moment, with what the slider says.
IN_STEP = f"return [Number(document.getElementById('frame').value), (() => {{{PIXELS}}})()]"
SET = """
const control = document.getElementById(arguments[0]);
if (control.type === "checkbox") control.click();
else {
  control.value = arguments[1];
  control.dispatchEvent(new Event(control.type === "range" ? "input" : "change", { bubbles: true }));
}"""


@pytest.fixture(scope="module")
def driver():
    with browser() as driver:
        yield driver


def as_arrays(found):
    return [np.array(values).reshape(height, width) for height, width, values in found]


def pixels(driver, kind="image"):
    """Gray of the canvases of a kind, one for each method."""
    return as_arrays(driver.execute_script(PIXELS, f".view.{kind} canvas"))


def put(driver, control, value=None):
    driver.execute_script(SET, control, value)


def press(driver, *keys):
    from selenium.webdriver.common.action_chains import ActionChains

    actions = ActionChains(driver)
    for key in keys:
        actions.send_keys(key)
    actions.perform()


def wait_for(condition, patience=PATIENCE_S):
    deadline = time.monotonic() + patience
    while not (found := condition()):
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.02)
    return found


def load(driver, page, path, patience=PATIENCE_S):
    """Opens a page from disk, waits for its images, and checks that the console is quiet."""
    page.write(path)
    driver.get_log("browser")
    driver.get(path.as_uri())
    if page._slices:
        selector = ".view.image canvas"
        wait_for(
            lambda: driver.execute_script("return document.querySelectorAll(arguments[0]).length", selector), patience
        )
    assert_quiet(driver)


def assert_quiet(driver):
    assert [entry["message"] for entry in driver.get_log("browser")] == []
    assert not driver.execute_script("return !document.getElementById('fault').hidden")


def assert_shows(driver, images, frame):
    for found, series in zip(pixels(driver), images.values(), strict=True):
        np.testing.assert_allclose(found, gray(levels_of(series))[..., frame], atol=1)


def assert_works(driver, page, path, images, patience=PATIENCE_S):
    """What every report has to do: it loads, follows the slider, and plays, all methods in step."""
    load(driver, page, path, patience)
    num_frames = next(iter(images.values())).shape[2]
    for frame in (0, num_frames - 1, 2):
        put(driver, "frame", frame)
        assert_shows(driver, images, frame)
    expected = {name: gray(levels_of(series)) for name, series in images.items()}
    driver.find_element("id", "play").click()
    seen = set()

    def several_frames():
        frame, found = driver.execute_script(IN_STEP, ".view.image canvas")
        for panel, series in zip(as_arrays(found), expected.values(), strict=True):
            np.testing.assert_allclose(panel, series[..., frame], atol=1)
        seen.add(frame)
        return len(seen) >= 4

    wait_for(several_frames, patience)
    driver.find_element("id", "play").click()
    stopped = driver.execute_script("return document.getElementById('frame').value")
    for _ in range(20):
        time.sleep(0.03)
        assert driver.execute_script("return document.getElementById('frame').value") == stopped
    assert_quiet(driver)


@pytest.fixture
def two_slices(driver, tmp_path):
    """A report of one scan, loaded, and the images of the slice that is shown."""
    first, second = movies(seed=1), movies(seed=2)
    load(driver, page_of(shown(first, slice_id=3), shown(second, slice_id=5)), tmp_path / "report.html")
    return first, second


def test_it_works(driver, tmp_path):
    images = movies()
    assert_works(driver, page_of(shown(images)), tmp_path / "report.html", images)


# The places of the script that are broken on purpose, and by what.
FAULTS = {
    "an error": ("function drawFrame() {", "function drawFrame() { state.nothing.of = 1;"),
    "no syntax": ('"use strict";', '"use strict'),
    "a frame late": ("const first = state.frame * height", "const first = (state.frame + 1) * height"),
    "one is still": ("(i) => shown[levels[first + i]]", "(i) => shown[levels[k ? first + i : i]]"),
    "does not play": ("setFrame(state.frame + passed)", "setFrame(state.frame)"),
    "does not stop": ("if (!state.playing) return;", ""),
    "wrong sums": ("levels[i] += levels[i - size]", "levels[i] += 0"),
    "network": ("function start() {", 'fetch("https://example.org/"); function start() {'),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_script_is_seen(driver, tmp_path, monkeypatch, fault):
    original, part = FAULTS[fault], page_module._part

    def broken(name):
        text = part(name)
        if name == "viewer.js":
            assert text.count(original[0]) == 1
            text = text.replace(*original)
        return text

    monkeypatch.setattr(page_module, "_part", broken)
    images = movies()
    with pytest.raises(AssertionError):
        assert_works(driver, page_of(shown(images)), tmp_path / "report.html", images, patience=2)


def test_a_script_that_is_not_ours_does_not_run(driver, tmp_path):
    path = tmp_path / "report.html"
    page_of(shown(movies())).write(path)
    path.write_text(path.read_text().replace("</main>", "</main><script>window.ran = 1</script>"))
    driver.get(path.as_uri())
    assert driver.execute_script("return window.ran") is None
    assert any("Content Security Policy" in entry["message"] for entry in driver.get_log("browser"))


def test_keys(driver, two_slices):
    from selenium.webdriver.common.keys import Keys

    first, second = two_slices
    assert_shows(driver, second, 0)  # the middle one of two
    press(driver, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert_shows(driver, second, 2)
    press(driver, *[Keys.ARROW_LEFT] * 3)
    assert_shows(driver, second, 5)
    press(driver, Keys.ARROW_DOWN)
    wait_for(lambda: driver.execute_script("return document.getElementById('slice').value") == "0")
    assert_shows(driver, first, 5)
    press(driver, " ")
    wait_for(lambda: driver.execute_script("return document.getElementById('frame').value") not in ("5", "0"))
    press(driver, " ")
    listed = driver.find_element("id", "keys").text
    assert "Space" in listed and "slice" in listed and "profile" in listed
    assert_quiet(driver)


def test_window_and_level(driver, two_slices):
    _, images = two_slices
    put(driver, "window", 50)
    put(driver, "level", 60)
    levels = [levels_of(series)[..., 0] for series in images.values()]
    for found, expected in zip(pixels(driver), levels, strict=True):
        np.testing.assert_allclose(found, gray(expected, 0.35 * WHITE, 0.85 * WHITE), atol=1)
    for found, series in zip(pixels(driver, "profile"), images.values(), strict=True):
        np.testing.assert_allclose(found, gray(levels_of(series)[:, 4], 0.35 * WHITE, 0.85 * WHITE), atol=1)
    press(driver, "r")
    assert_shows(driver, images, 0)
    drag(driver, ".view.image canvas", (0.7, 0.2), (0.9, 0.2))
    window = float(driver.execute_script("return document.getElementById('window').value"))
    assert window == pytest.approx(130, abs=3)
    driver.find_element("id", "reset").click()
    assert_shows(driver, images, 0)


@pytest.mark.parametrize("key, window, level", [("[", 95, 50), ("]", 105, 50), ("-", 100, 45), ("+", 100, 55)])
def test_keys_of_window_and_level(driver, two_slices, key, window, level):
    press(driver, key)
    found = [
        driver.execute_script(f"return Number(document.getElementById('{id}').value)") for id in ("window", "level")
    ]
    assert found == [window, level]


def drag(driver, selector, start, end, number=0):
    """Drags inside of an element; places are relative to its image, from the upper left."""
    from selenium.webdriver.common.action_chains import ActionChains

    view = driver.find_elements("css selector", ".view.image")[number]
    element = driver.find_elements("css selector", selector)[number]
    size = view.size
    offset = (
        [(x - 0.5) * size["width"] for x in (start[0], end[0])],
        [(y - 0.5) * size["height"] for y in (start[1], end[1])],
    )
    actions = ActionChains(driver)
    if element.tag_name == "canvas":
        actions.move_to_element_with_offset(view, int(offset[0][0]), int(offset[1][0]))
    else:
        actions.move_to_element(element)
    actions.click_and_hold()
    actions.move_to_element_with_offset(view, int(offset[0][1]), int(offset[1][1])).release().perform()


def test_errors(driver, two_slices):
    _, images = two_slices
    levels = {name: levels_of(series)[..., 0] for name, series in images.items()}
    for gain in (5, 2):
        put(driver, "gain", gain)
        for found, name in zip(pixels(driver, "error")[1:], ("zero-filled", "greedy"), strict=True):
            difference = np.abs(levels[name] - levels["target"])
            np.testing.assert_allclose(found, gray(difference, high=WHITE / gain), atol=1)
    shown_errors = "return [...document.querySelectorAll('.view.error')].map((view) => view.offsetHeight > 0)"
    assert driver.execute_script(shown_errors) == [True] * 3
    press(driver, "e")
    assert driver.execute_script(shown_errors) == [False] * 3
    put(driver, "errors")
    assert driver.execute_script(shown_errors) == [True] * 3


def test_profile(driver, two_slices):
    from selenium.webdriver.common.keys import Keys

    _, images = two_slices

    def assert_profile(axis, position):
        for found, series in zip(pixels(driver, "profile"), images.values(), strict=True):
            np.testing.assert_allclose(found, gray(np.take(levels_of(series), position, axis=axis)), atol=1)

    assert_profile(1, 4)
    drag(driver, ".line", (0, 0), (20.5 / 30, 0.5), number=1)
    assert_profile(1, 20)
    press(driver, ".")
    assert_profile(1, 21)
    press(driver, Keys.ARROW_LEFT)  # the line has the focus
    assert_profile(1, 20)
    hint = driver.find_element("id", "hint").text
    assert "Drag the yellow line" in hint and "Keys: , . move it, p turns it." in hint
    put(driver, "axis", 0)
    assert_profile(0, 20)
    drag(driver, ".line", (0, 0), (0.5, 9.5 / 40), number=2)
    assert_profile(0, 9)
    press(driver, *[","] * 12)
    assert_profile(0, 0)
    press(driver, "p")
    assert_profile(1, 15)


def test_scans_keep_one_window(driver, tmp_path):
    """Slices of a scan are shown in the window of the brightest, another scan in its own."""
    dim = {name: series / 2 for name, series in movies().items()}
    slices = [
        shown(movies(), "bright", 0),
        shown(dim, "bright", 1, white=WHITE / 2),
        shown(dim, "dim", 0, white=WHITE / 2, dataset="other"),
    ]
    load(driver, page_of(*slices), tmp_path / "report.html")
    names = [option.text for option in driver.find_elements("css selector", "#scan option")]
    assert names == ["d: bright", "other: dim"]
    # Twice as fine, for its white is half of that.
    levels = [levels_of(2 * series)[..., 0] / 2 for series in dim.values()]
    for found, expected in zip(pixels(driver), levels, strict=True):
        np.testing.assert_allclose(found, gray(expected), atol=1)
    press(driver, "s")
    wait_for(lambda: driver.execute_script("return document.querySelectorAll('#slice option').length") == 1)
    for found, expected in zip(pixels(driver), levels, strict=True):
        np.testing.assert_allclose(found, gray(expected, high=WHITE / 2), atol=1)


def test_2d_images_and_scans_without_target(driver, tmp_path):
    images = movies(("zero-filled", "reconstruction"), num_frames=1, height=21, width=17)
    load(driver, page_of(shown(images, pixel_spacing_mm=(1.0, 2.0))), tmp_path / "report.html")
    assert_shows(driver, images, 0)
    assert driver.find_element("id", "hint").text == "Drag in an image: window and level."
    keys = driver.find_element("id", "keys").text
    assert "slice" in keys and "play" not in keys and "frame" not in keys and "profile" not in keys
    for selector in (".movie", ".compared", ".line", ".view.profile", ".view.error"):
        assert not any(e.is_displayed() for e in driver.find_elements("css selector", selector)), selector
    size = driver.find_element("css selector", ".view.image").size
    assert size["width"] / size["height"] == pytest.approx(17 * 2 / 21, rel=0.02)
    assert not driver.find_element("id", "metrics").is_displayed()
    press(driver, " ", "p", "e")
    assert_quiet(driver)


def column(driver, number, body="units"):
    cells = driver.find_elements("css selector", f"tbody.{body} tr > :nth-child({number})")
    return [cell.text for cell in cells]


def test_sorting(driver, tmp_path):
    from selenium.webdriver.common.keys import Keys

    rows = score_rows({"subject 2": 30.0, "subject 10": 32.5, "subject 1": 31.0, "subject 3": np.nan})
    rows += [Row("d", "subject 4", "greedy", {SSIM: 0.9})]
    rows += [Row("d", "(all subjects)", "greedy", {PSNR: 31.2}, {PSNR: "(1.00)"}, is_summary=True)]
    load(driver, page_of(rows=rows), tmp_path / "report.html")
    heads = driver.find_elements("css selector", "thead tr:last-child th")
    assert [head.text for head in heads] == ["subject", "method", "PSNR", "SSIM"]
    assert driver.find_element("css selector", "thead tr").text == "complex magnitude"
    sort_by = {head.text: head.find_element("tag name", "button") for head in heads}
    sort_by["PSNR"].click()
    assert column(driver, 3) == ["32.50", "31.00", "30.00", "", ""]
    assert heads[2].get_attribute("aria-sort") == "descending"
    sort_by["PSNR"].send_keys(Keys.ENTER)
    assert column(driver, 3) == ["30.00", "31.00", "32.50", "", ""]
    assert heads[2].get_attribute("aria-sort") == "ascending"
    sort_by["subject"].send_keys(Keys.SPACE)
    assert column(driver, 1) == ["subject 1", "subject 2", "subject 3", "subject 4", "subject 10"]
    assert [head.get_attribute("aria-sort") for head in heads] == ["ascending", None, None, None]
    assert column(driver, 3, "summary") == ["31.20 (1.00)"]
    assert_quiet(driver)


NAMES = (
    "<script>window.ran = 1</script>",
    "</script><img src=x onerror='window.ran = 1'>",
    "'\"`${window.ran = 1}",
    "\u5fc3\u81d3 \U0001fac0 \u202egnp",
    "&lt;b&gt; <!-- ]]> $script",
)


@pytest.mark.parametrize("name", NAMES)
def test_hostile_names_are_shown_and_not_run(driver, tmp_path, name):
    images = {"target": movies()["target"], name: movies()["greedy"]}
    rows = [Row(name, name, name, {PSNR: 1.0}), Row("d", "s", "m", {PSNR: 1.0})]
    page = page_of(
        shown(images, name, dataset=name, scores={name: {name: name}}), rows=rows, about=[name], selection=[name]
    )
    page.title, page.notes, page.unit, page.legend = name, [name], name, name
    load(driver, page, tmp_path / "report.html")
    assert driver.execute_script("return window.ran") is None
    assert driver.execute_script("return document.querySelectorAll('script').length") == 2 + len(images)
    assert driver.execute_script("return document.querySelectorAll('img, b').length") == 0
    text = driver.execute_script("return document.querySelector('main').textContent")
    assert driver.title.split() == name.split()
    for place, count in (("#title, #about, #legend", 3), ("figcaption strong", 2), ("tbody tr:first-child > *", 4)):
        found = driver.execute_script(
            "return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent)", place
        )
        assert len(found) == count and found.count(name) >= min(count, 3) - (place == "figcaption strong"), found
    assert f"{name}: {name}" in text and driver.find_element("css selector", "#hint span").text.split() == name.split()


def test_narrow_and_wide(driver, tmp_path):
    """No page is wider than its window; methods stand in one row where there is room."""
    images = movies(("target", "zero-filled", "cs", "backpropagation", "greedy"))
    load(driver, page_of(shown(images), rows=score_rows({"a": 1.0})), tmp_path / "report.html")
    rows_of_figures = {}
    for width in (360, 400, 1400):
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        assert driver.execute_script("return document.documentElement.scrollWidth") <= width
        tops = driver.execute_script("return [...document.querySelectorAll('figure')].map((f) => f.offsetTop)")
        rows_of_figures[width] = len(set(tops))
    driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert rows_of_figures == {360: 3, 400: 3, 1400: 1}
