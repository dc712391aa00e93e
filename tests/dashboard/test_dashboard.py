"""``qsearch dashboard`` as a person sees it: a real ledger, a real server, headless Chromium."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from dashboard_ledgers import FAILURE, NAME, SyntheticRun, write_run
from selenium import webdriver
from selenium.common.exceptions import TimeoutException
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from qsearch.run import load

CHROMIUM, CHROMEDRIVER = shutil.which("chromium"), shutil.which("chromedriver")
WAIT = 60  # seconds, for a page of a busy machine
OPTIONS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --window-size=1500,2400"
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None or CHROMEDRIVER is None, reason="needs chromium and chromedriver"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> SyntheticRun:
    return write_run(tmp_path_factory.mktemp("runs"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def address(run: SyntheticRun, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of ``qsearch dashboard`` on the run."""
    port = free_port()
    output = tmp_path_factory.mktemp("server") / "output.txt"
    command = [sys.executable, "-c", "from qsearch.cli import main; main()", "dashboard", str(run.folder)]
    with output.open("w") as log:
        server = subprocess.Popen([*command, "--port", str(port)], stdout=log, stderr=subprocess.STDOUT)
    try:
        found = f"http://127.0.0.1:{port}/dashboard"
        wait_for_server(found, server, output)
        yield found
    finally:
        server.terminate()
        server.wait(10)


def wait_for_server(url: str, server: subprocess.Popen[bytes], output: Path) -> None:
    end = time.monotonic() + WAIT
    while time.monotonic() < end:
        assert server.poll() is None, output.read_text()
        try:
            with urlopen(url, timeout=5):
                return
        except (URLError, OSError):
            time.sleep(0.1)
    raise AssertionError(f"no answer from {url}: {output.read_text()}")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for option in [*OPTIONS.split(), f"--user-data-dir={tmp_path_factory.mktemp('profile')}"]:
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(CHROMEDRIVER))
    try:
        yield driver
    finally:
        driver.quit()


def text(browser: webdriver.Chrome) -> str:
    return browser.find_element(By.TAG_NAME, "body").text


def wait_for(browser: webdriver.Chrome, what: str, condition: Callable[[webdriver.Chrome], Any]) -> Any:
    """The first true answer of ``condition``; the page's text if there is none."""
    try:
        return WebDriverWait(browser, WAIT).until(condition)
    except TimeoutException:
        raise AssertionError(f"the page never showed {what}:\n{text(browser)[:2000]}") from None


def plot(browser: webdriver.Chrome, element: str) -> dict[str, dict[str, Any]]:
    """The traces of a Plotly graph that have points: name → values."""
    script = """
        const graph = document.getElementById(arguments[0]);
        if (!graph || !graph.data) return null;
        return graph.data.filter(t => (t.x || []).length).map(t => [t.name, {x: [...t.x], y: [...t.y]}]);
    """
    return dict(wait_for(browser, f"the graph {element}", lambda page: page.execute_script(script, element)))


def assert_no_errors(browser: webdriver.Chrome) -> None:
    severe = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert not [message for message in severe if "favicon" not in message]


@pytest.fixture
def study(address: str, browser: webdriver.Chrome) -> webdriver.Chrome:
    """The browser on the page of the study."""
    browser.get(f"{address}/studies/1")
    wait_for(browser, "the study", lambda page: f"{NAME} (id=1)" in text(page))
    return browser


def test_run_holds_every_kind_of_trial(run: SyntheticRun) -> None:
    assert all(run.numbers(state) for state in ("complete", "infeasible", "failed"))
    assert run.refused_after_evaluation
    assert len(run.plots) >= 3


def test_study_list_shows_the_study(address: str, browser: webdriver.Chrome) -> None:
    browser.get(address)
    wait_for(browser, "the study", lambda page: f"1. {NAME}" in text(page))
    assert "Direction: MINIMIZE" in text(browser)
    assert_no_errors(browser)


def test_history_shows_feasible_and_infeasible_trials(study: webdriver.Chrome, run: SyntheticRun) -> None:
    traces = plot(study, "plot-history")
    feasible = [trial.number for trial in run.trials if trial.feasible]
    assert traces[f"loss of {NAME}"]["x"] == feasible
    assert traces[f"Infeasible Trial of {NAME}"]["x"] == run.refused_after_evaluation
    losses = [trial.value("loss") for trial in run.trials if trial.feasible]
    assert traces[f"loss of {NAME}"]["y"] == pytest.approx(losses)
    assert min(traces[f"Best Value of {NAME}"]["y"]) == pytest.approx(min(losses))
    assert_no_errors(study)


def test_timeline_has_a_colour_for_every_state(study: webdriver.Chrome, run: SyntheticRun) -> None:
    traces = plot(study, "graph-timeline")
    counts = {name: len(trace["x"]) for name, trace in traces.items()}
    assert counts == {
        "Complete": sum(trial.feasible for trial in run.trials),
        "Infeasible": len(run.refused_after_evaluation),
        "Pruned": len(run.numbers("infeasible")),
        "Fail": len(run.numbers("failed")),
    }


def test_importances_carry_the_names_of_the_sites(study: webdriver.Chrome, run: SyntheticRun) -> None:
    (bars,) = plot(study, "graph-hyperparameter-importances").values()
    assert set(bars["y"]) == {variable.name for variable in run.space.variables}
    assert sum(bars["x"]) == pytest.approx(1, abs=1e-6)
    assert max(bars["x"]) > min(bars["x"])


def test_best_trial_is_the_best_feasible_one(study: webdriver.Chrome, run: SyntheticRun) -> None:
    best = load(run.folder).best
    assert best is not None
    wait_for(study, "the best trial", lambda page: f"Best Trial (number={best.number})" in text(page))
    assert str(best.value("loss"))[:12] in text(study)
    for site, bits in best.assignment.items():
        assert f"{site}: {bits}" in text(study)


def test_study_page_shows_the_plots(study: webdriver.Chrome, run: SyntheticRun) -> None:
    script = """
        const images = [...document.images].filter(image => image.alt.endsWith(".png"));
        return Object.fromEntries(images.map(image => [image.alt, image.complete ? image.naturalWidth : 0]));
    """
    wait_for(study, "the artifacts", lambda page: "Study Artifacts" in text(page))
    shown = wait_for(
        study,
        "every plot, loaded",
        lambda page: (
            (found := page.execute_script(script)) and set(found) == set(run.plots) and all(found.values()) and found
        ),
    )
    assert all(width > 100 for width in shown.values())
    assert_no_errors(study)


def test_trial_list_shows_states(address: str, browser: webdriver.Chrome, run: SyntheticRun) -> None:
    browser.get(f"{address}/studies/1/trials")
    wait_for(browser, "the list", lambda page: f"{len(run.trials)} Trials" in text(page))
    lines = wait_for(browser, "trials", lambda page: "Trial 20\n" in text(page) and text(page).splitlines())
    states = {"complete": "Complete", "infeasible": "Pruned", "failed": "Fail"}
    for trial in run.trials[:21]:
        assert lines[lines.index(f"Trial {trial.number}") + 1] == states[trial.state]


def trial_page(address: str, browser: webdriver.Chrome, number: int) -> str:
    """Text of a trial's page, from its headline on."""
    browser.get(f"{address}/studies/1/trials?numbers={number}")
    wait_for(browser, f"trial {number}", lambda page: f"Trial {number} (trial_id=" in text(page))
    wait_for(browser, "the attributes", lambda page: "User Attributes" in text(page))
    whole = text(browser)
    return whole[whole.index(f"Trial {number} (trial_id=") :]


def test_trial_page_shows_bits_and_violated_constraint(
    address: str, browser: webdriver.Chrome, run: SyntheticRun
) -> None:
    trial = run.trials[run.refused_after_evaluation[0]]
    shown = trial_page(address, browser, trial.number)
    for site, bits in trial.assignment.items():
        assert f"{site} {bits}" in shown
    for label, violation in trial.violations.items():
        assert label in shown
        assert f"{violation:.15g}"[:12] in shown


def test_trial_page_shows_why_a_trial_failed(address: str, browser: webdriver.Chrome, run: SyntheticRun) -> None:
    assert FAILURE in trial_page(address, browser, run.numbers("failed")[0])


def test_trial_page_shows_why_a_trial_was_refused(address: str, browser: webdriver.Chrome, run: SyntheticRun) -> None:
    trial = run.trials[run.numbers("infeasible")[0]]
    assert trial.reason in trial_page(address, browser, trial.number)
