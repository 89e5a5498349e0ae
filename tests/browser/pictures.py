"""Takes pictures of every page of a home, for docs/pages.md: `make pictures OF=.perdure`.

Home and studies are copied, and the copies are served without a daemon; the studies are those of the folder `studies` beside the home, or
of another one. Each page has one picture of its four looks: on the left a desktop, light above dark and smaller than it is, then a phone in
both. Colours are reduced, so that a picture stays below 80 KB. With a second folder each look of each page is kept there alone, as long as
the page is, to be looked at.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import numpy as np
from PIL import Image
from playwright.sync_api import Page, sync_playwright
from tests.agent.web.servers import Server, serving
from tests.browser.visits import SIZES, Scheme, Size, Visits, chromium

MOST_BYTES = 80_000
COLOURS = (96, 64, 48, 32, 24)
"""Tried in this order, in each of `SCALES`."""
SCALES = (0.6, 0.55, 0.5, 0.45)
"""How large a desktop is drawn."""
SHOWN = (1280, 720)
"""As much of a desktop is shown."""
SCHEMES: tuple[Scheme, ...] = ("light", "dark")
LOOKS: list[tuple[Size, Scheme]] = [(size, scheme) for size in SIZES for scheme in SCHEMES]
GAP = 16
GREY = (128, 128, 128)
Looks = Mapping[tuple[Size, Scheme], Image.Image]


def main() -> None:
    given = argparse.ArgumentParser(description="Take pictures of every page of a home.")
    given.add_argument("home", type=Path)
    given.add_argument("out", type=Path)
    given.add_argument("looks", type=Path, nargs="?")
    given.add_argument("--studies", type=Path, help="the folder of studies, if it is not the one beside the home")
    words = given.parse_args()
    words.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="perdure-") as scratch:
        home, studies = Path(scratch) / "home", Path(scratch) / "studies"
        shutil.copytree(words.home, home)
        given_studies = words.studies or words.home.absolute().parent / "studies"
        if given_studies.exists():
            shutil.copytree(given_studies, studies)
        with serving(home, f"studies = {json.dumps(str(studies))}") as server, sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox", "--disable-dev-shm-usage"])
            taken = take(server, Visits(browser))
            browser.close()
    for name, looks in taken.items():
        if words.looks is not None:
            words.looks.mkdir(parents=True, exist_ok=True)
            for look, image in looks.items():
                image.save(words.looks / f"{name}-{'-'.join(look)}.png")
        keep(looks, words.out / f"{name}.png")


def take(server: Server, visits: Visits) -> dict[str, Looks]:
    """Every page in every look, by its name."""
    paths = page_paths(server)
    taken: dict[str, dict[tuple[Size, Scheme], Image.Image]] = {name: {} for name in (*paths, "login")}
    for size, scheme in LOOKS:
        stranger = visits.open(server, size=size, scheme=scheme, signed_in=False)
        taken["login"][size, scheme] = picture(stranger.go("/login"))
        window = visits.open(server, size=size, scheme=scheme)
        for name, path in paths.items():
            page = window.go(path)
            page.wait_for_timeout(300)  # charts are drawn after the page has come
            taken[name][size, scheme] = picture(page)
    visits.close()
    return dict(taken)


def picture(page: Page) -> Image.Image:
    """The whole page, also what is below the window."""
    return Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")


def page_paths(server: Server) -> dict[str, str]:
    """Every kind of page, of what the home has most of."""
    versions = server.get("/api/v1/versions").json()
    [serving_now] = [one for one in versions if one["state"] == "serving"]
    gate = max(gate["gate"] for one in versions for gate in server.get(f"/api/v1/versions/{one['name']}").json()["gates"])
    now, environment = serving_now["name"], serving_now["targets"][0]
    place = quote(environment, safe="")
    against = f"/versions/{now}/against/v0"
    pairs = server.get(f"/api/v1{against}?environment={place}").json()["pairs"]
    pair = max(pairs, key=lambda one: abs(one["difference"]))
    studies = [f"/studies/{quote(one['name'], safe='')}" for one in server.get("/api/v1/studies").json() if one["done"]]
    return {
        "now": "/",
        "learning": "/learning",
        "retention": "/retention?which=all",
        "cell": f"/retention/{now}?environment={place}",
        "skill": f"/retention/{now}/skill?name=arithmetic",
        "versions": "/versions",
        "version": f"/versions/{now}",
        "gate": f"/gates/{gate}",
        "against": against,
        "answers": f"{against}?a_episode={pair['a_episode']}&b_episode={pair['b_episode']}",
        "episodes": "/episodes?purpose=live&outcome=success",
        "episode": f"/episodes/{pair['a_episode']}",
        "turn": f"/episodes/{pair['a_episode']}/turns/0",
        "tasks": "/tasks",
        "environments": "/environments",
        "environment": f"/environments?name={place}",
        "studies": "/studies",
        **dict(zip(["study"], (f"{one}?part=study" for one in studies), strict=False)),
        "system": "/system",
    }


def sheet(looks: Looks, scale: float) -> Image.Image:
    """The upper end of each look: what a low window of a desktop holds, and of a phone as much as is as high as two of these."""
    width, height = (round(side * scale) for side in SHOWN)
    narrow = SIZES["phone"][0]
    whole = Image.new("RGB", (width + 2 * (GAP + narrow), 2 * height + GAP), GREY)
    for place, scheme in enumerate(SCHEMES):
        desktop = looks["desktop", scheme].crop((0, 0, *SHOWN))
        whole.paste(desktop.resize((width, height), Image.Resampling.LANCZOS), (0, place * (height + GAP)))
        phone = looks["phone", scheme]
        whole.paste(phone.crop((0, 0, narrow, min(phone.height, whole.height))), (width + GAP + place * (narrow + GAP), 0))
    return whole


def keep(looks: Looks, file: Path) -> None:
    """As large and with as many colours as there is room for. Raises `ValueError` if it is too large at the smallest with the fewest."""
    for scale in SCALES:
        image = sheet(looks, scale)
        for number in COLOURS:
            made = io.BytesIO()
            fewer_colours(image, number).save(made, "PNG", optimize=True)
            if made.tell() <= MOST_BYTES:
                file.write_bytes(made.getvalue())
                print(f"{file}: {made.tell():,} bytes, {number} colours, a desktop at {scale}", flush=True)
                return
    raise ValueError(f"{file} has {made.tell():,} bytes at {scale} with {number} colours")


def fewer_colours(image: Image.Image, number: int) -> Image.Image:
    """Those that are frequent, and unlike each other; any other one, mostly at the rim of a letter, becomes the nearest of them."""
    wide = np.asarray(image).astype(np.int32)
    packed, places, counts = np.unique((wide << [16, 8, 0]).sum(axis=2), return_inverse=True, return_counts=True)
    colours = packed[:, None] >> [16, 8, 0] & 255
    palette = colours[[counts.argmax()]]
    apart = np.full(len(colours), np.iinfo(np.int64).max)
    while len(palette) < min(number, len(colours)):
        apart = np.minimum(apart, ((colours - palette[-1]) ** 2).sum(axis=1))
        palette = np.append(palette, colours[[(apart * counts).argmax()]], axis=0)
    nearest = ((colours[:, None] - palette[None]) ** 2).sum(axis=2).argmin(axis=1)
    made = Image.fromarray(nearest[places].reshape(wide.shape[:2]).astype(np.uint8))
    made.putpalette(palette.astype(np.uint8).tobytes())
    return made


if __name__ == "__main__":
    main()
