"""Takes pictures of every page of a home, for docs/pages.md: `make pictures OF=.perdure`.

The home is copied, and the copy is served without a daemon, with the studies of the folder `studies` beside it. Each page has two pictures:
one in a window of a desktop beside one on a phone, and both again, half as large, with the colours the other way round. Colours are
reduced, so that a picture stays below 72 KB. With a second folder every page is kept there alone in each of its four looks.
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
from playwright.sync_api import sync_playwright
from tests.agent.web.servers import Server, serving
from tests.browser.visits import Scheme, Size, Visits, chromium

MOST_BYTES = 72_000
COLOURS = (96, 64, 48, 32, 24, 16)
"""Tried in this order."""
LOOKS: tuple[tuple[Size, Scheme], ...] = (("desktop", "light"), ("desktop", "dark"), ("phone", "light"), ("phone", "dark"))
GAP = 16


def main() -> None:
    given = argparse.ArgumentParser(description="Take pictures of every page of a home.")
    given.add_argument("home", type=Path)
    given.add_argument("out", type=Path)
    given.add_argument("looks", type=Path, nargs="?")
    words = given.parse_args()
    words.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch) / "home"
        shutil.copytree(words.home, home)
        studies = words.home.absolute().parent / "studies"
        with serving(home, f"studies = {json.dumps(str(studies))}") as server, sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox", "--disable-dev-shm-usage"])
            taken = take(server, Visits(browser))
            browser.close()
    for name, looks in taken.items():
        keep(beside(looks["desktop", "light"], looks["phone", "dark"]), words.out / f"{name}.png")
        keep(halved(beside(looks["desktop", "dark"], looks["phone", "light"])), words.out / f"{name}-dark.png")
        if words.looks is not None:
            words.looks.mkdir(parents=True, exist_ok=True)
            for look, image in looks.items():
                image.save(words.looks / f"{name}-{'-'.join(look)}.png")


def take(server: Server, visits: Visits) -> dict[str, Mapping[tuple[Size, Scheme], Image.Image]]:
    """Every page in every look, by its name."""
    paths = page_paths(server)
    taken: dict[str, dict[tuple[Size, Scheme], Image.Image]] = {name: {} for name in (*paths, "login")}
    for size, scheme in LOOKS:
        stranger = visits.open(server, size=size, scheme=scheme, signed_in=False)
        taken["login"][size, scheme] = Image.open(io.BytesIO(stranger.go("/login").screenshot())).convert("RGB")
        window = visits.open(server, size=size, scheme=scheme)
        for name, path in paths.items():
            page = window.go(path)
            page.wait_for_timeout(300)  # charts are drawn after the page has come
            if "#" in path:
                page.locator(path[path.index("#") :]).scroll_into_view_if_needed()
            taken[name][size, scheme] = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
        window.go("/login")
    visits.close()
    return taken  # type: ignore[return-value]


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


def beside(left: Image.Image, right: Image.Image) -> Image.Image:
    """Two pictures beside each other, of one height."""
    height = max(left.height, right.height)
    both = Image.new("RGB", (left.width + GAP + right.width, height), (128, 128, 128))
    both.paste(left, (0, 0))
    both.paste(right, (left.width + GAP, 0))
    return both


def halved(image: Image.Image) -> Image.Image:
    return image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS)


def keep(image: Image.Image, file: Path) -> None:
    """With as many colours as there is room for. Raises `ValueError` if it is too large with the fewest."""
    for number in COLOURS:
        made = io.BytesIO()
        fewer_colours(image, number).save(made, "PNG", optimize=True)
        if made.tell() <= MOST_BYTES:
            file.write_bytes(made.getvalue())
            print(f"{file}: {made.tell():,} bytes, {number} colours", flush=True)
            return
    raise ValueError(f"{file} has {made.tell():,} bytes with {number} colours")


def fewer_colours(image: Image.Image, number: int) -> Image.Image:
    """Its most frequent colours stay as they are; each other one, mostly at the rim of a letter, becomes the nearest of these."""
    wide = np.asarray(image).astype(np.int32)
    packed, places, counts = np.unique((wide << [16, 8, 0]).sum(axis=2), return_inverse=True, return_counts=True)
    colours = packed[:, None] >> [16, 8, 0] & 255
    palette = colours[np.argsort(-counts, kind="stable")[:number]]
    nearest = ((colours[:, None] - palette[None]) ** 2).sum(axis=2).argmin(axis=1)
    made = Image.fromarray(nearest[places].reshape(wide.shape[:2]).astype(np.uint8))
    made.putpalette(palette.astype(np.uint8).tobytes())
    return made


if __name__ == "__main__":
    main()
