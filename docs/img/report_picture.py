"""Make docs/img/report.png of a finished run: ``python docs/img/report_picture.py runs/demo`` (needs Chromium).

Left the top of the report as it opens, right its images.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

SIZE = (1200, 1350)
ONLY_IMAGES = "<style>#headline, #summary, #comparisons, #cost, #provenance { display: none }</style></head>"


def screenshot(page: str) -> Image.Image:
    """Return the top of a page, given as HTML, as headless Chromium shows it."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    with tempfile.TemporaryDirectory() as folder:
        html, png = Path(folder, "page.html"), Path(folder, "page.png")
        html.write_text(page, encoding="utf-8")
        options = [f"--window-size={SIZE[0]},{SIZE[1]}", f"--screenshot={png}", f"--user-data-dir={folder}/profile"]
        options += [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--disable-background-networking",
        ]
        subprocess.run([browser, *options, html.as_uri()], check=True, capture_output=True, timeout=120)
        return Image.open(png).convert("RGB")


report = Path(sys.argv[1], "report.html").read_text(encoding="utf-8")
picture = Image.new("RGB", (2 * SIZE[0], SIZE[1]))
for place, page in enumerate((report, report.replace("</head>", ONLY_IMAGES, 1))):
    picture.paste(screenshot(page), (place * SIZE[0], 0))
picture.resize((1600, 900), Image.Resampling.LANCZOS).quantize(256).save(Path(__file__).with_name("report.png"))
