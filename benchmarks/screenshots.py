"""Make the pictures of docs/dashboards.md of a finished run that is in MLflow (needs Chromium).

    python -m benchmarks.screenshots runs/dashboards

It serves the store of the run on 127.0.0.1, opens the links that ``ray_jobs.track --open`` prints, and the report.
"""

from __future__ import annotations

import io
import sys
import time
from pathlib import Path

from PIL import Image

from benchmarks.browser import PHONE, Browser
from ipsolve.runs.results import RunFolder
from ray_jobs.tracking.links import Shown, links
from ray_jobs.tracking.serving import server

FOLDER = Path(__file__).parents[1] / "docs" / "img"
SIZE = (1440, 900)
# MLflow's page opens with a panel for an assistant, over a third of what is to be seen
CLOSE = (
    "[...document.querySelectorAll('button')].filter((b) => /close/i.test(b.ariaLabel ?? '')).forEach((b) => b.click())"
)


def save(name: str, png: bytes, width: int = 1200) -> None:
    """Write a picture in 128 colours, small enough for a repository."""
    image = Image.open(io.BytesIO(png)).convert("RGB")
    if image.width > width:
        image = image.resize((width, round(image.height * width / image.width)), Image.Resampling.LANCZOS)
    path = FOLDER / f"{name}.png"
    image.quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path.name}  {path.stat().st_size / 1000:.0f} kB  {image.width} x {image.height}")


def report(page: Path) -> None:
    """Take the pictures of the report."""
    with Browser(SIZE) as browser:
        browser.open(page.as_uri())
        save("report-overview", browser.screenshot())
        browser.click(".strip[aria-label='sr4, worst'] button")
        browser.press("e")
        save("report-errors", browser.screenshot())
        browser.press("Escape")
    with Browser(PHONE, dark=True) as browser:
        browser.open(page.as_uri())
        save("report-phone", browser.screenshot())


def tracking(run: RunFolder) -> None:
    """Take the pictures of MLflow."""
    shown = Shown.of(run)
    with server(shown.uri) as (address, _), Browser(SIZE) as browser:
        found = dict(line.split(maxsplit=1) for line in links([shown], address))
        ready = {
            "runs": "document.body.innerText.includes('matching runs')",
            "charts": "document.querySelectorAll('.js-plotly-plot').length >= 3",
            "compare": "document.querySelector('.js-plotly-plot') !== null",
        }
        for name, condition in ready.items():
            browser.open(found[name])
            browser.wait(condition, 180)
            browser.run(CLOSE)
            time.sleep(5)  # what is drawn comes in gently
            save(f"mlflow-{name}", browser.screenshot())
            if name == "charts":
                headings = "[...document.querySelectorAll('*')].filter((e) => e.innerText === 'sr4 images')"
                browser.run(f"{headings}.forEach((e) => e.scrollIntoView())")  # it loads what is in sight
                browser.wait(
                    "[...document.images].filter((i) => i.src.includes('sr4~') && i.complete).length >= 3", 180
                )
                time.sleep(3)
                save("mlflow-images", browser.screenshot())


if __name__ == "__main__":
    location = RunFolder(sys.argv[1])
    report(Path(location.path("report.html")))
    tracking(location)
